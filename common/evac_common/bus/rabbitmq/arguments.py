"""A `Queue` as RabbitMQ's arguments. They are fixed for ever: another value is refused."""

from __future__ import annotations

from typing import assert_never

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, FieldValue

from evac_common.bus.port import Queue, QueueKind
from evac_common.bus.topology import EXCHANGES


def arguments_of(queue: Queue) -> dict[str, FieldValue]:
    """The x-arguments of a queue."""
    arguments: dict[str, FieldValue] = {}
    match queue.kind:
        case QueueKind.QUORUM:
            # At-least-once dead-lettering needs all of these; with drop-head it is silently lost.
            arguments |= {
                "x-queue-type": "quorum",
                "x-max-length": queue.length_max,
                "x-overflow": "reject-publish",
            }
            if queue.delivery_limit is not None:
                arguments["x-delivery-limit"] = queue.delivery_limit
            if queue.dead_letter_exchange is not None:
                arguments["x-dead-letter-strategy"] = "at-least-once"
        case QueueKind.EXCLUSIVE:
            arguments |= {"x-max-length": queue.length_max, "x-overflow": "drop-head"}
        case QueueKind.STREAM:
            arguments["x-queue-type"] = "stream"
            if queue.max_age_s is not None:
                arguments["x-max-age"] = f"{queue.max_age_s}s"
        case _:
            assert_never(queue.kind)
    if queue.dead_letter_exchange is not None:
        arguments["x-dead-letter-exchange"] = queue.dead_letter_exchange
    if queue.single_active_consumer:
        arguments["x-single-active-consumer"] = True
    if queue.message_ttl_s is not None:
        arguments["x-message-ttl"] = round(queue.message_ttl_s * 1000)
    return arguments


async def declare_exchanges(channel: AbstractChannel) -> None:
    """Every exchange of evac's. The caller limits the time."""
    for name in EXCHANGES:
        await channel.declare_exchange(name, ExchangeType.TOPIC, durable=True)


async def declare_queue(channel: AbstractChannel, queue: Queue) -> None:
    """The queue and its bindings. The caller limits the time."""
    exclusive = queue.kind is QueueKind.EXCLUSIVE
    declared = await channel.declare_queue(
        queue.name, durable=not exclusive, exclusive=exclusive, arguments=arguments_of(queue)
    )
    for binding in queue.bindings:
        await declared.bind(binding.exchange, routing_key=binding.routing_key)
