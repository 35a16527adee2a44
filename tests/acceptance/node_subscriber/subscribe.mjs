// Subscribe to evac's events without any of evac's code: bind a queue of our own, read CloudEvents
// headers, decode the msgpack body, print one JSON line per event.
//
//   AMQP_URL=amqp://user:password@host/evac node subscribe.mjs 'node.#'
import { decode } from "@msgpack/msgpack";
import { connect } from "amqplib";

const pattern = process.argv[2] ?? "node.#";
const connection = await connect(process.env.AMQP_URL);
const channel = await connection.createChannel();
const { queue } = await channel.assertQueue("", { exclusive: true });
await channel.bindQueue(queue, "evac.event", pattern);
await channel.consume(
  queue,
  (message) => {
    const { headers, contentType } = message.properties;
    console.log(
      JSON.stringify({
        key: message.fields.routingKey,
        type: headers["ce-type"],
        id: headers["ce-id"],
        contentType,
        body: decode(message.content),
      }),
    );
    channel.ack(message);
  },
  { noAck: false },
);
console.error("subscribed");
process.on("SIGTERM", async () => {
  await connection.close();
});
