"""Routing, settling, limits: what happens to messages while nothing fails."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from evac_common.bus.port import Delivery, Queue, QueueKind, Verdict
from evac_common.bus.topology import CONTROLLER_QUEUES, DEAD, EVENT_STREAM, command_queue
from evac_common.errors import BusRefused, QueueFull, Unroutable
from evac_common.model.identity import (
    API_USER,
    MONITOR_USER,
    SCHEDULER_USER,
)
from tests.contract.bus.pieces import (
    EVENTS,
    N1,
    exclusive,
    quorum,
    seen,
    sentences,
)
from tests.contract.bus.world import (
    Holding,
    Inbox,
    World,
    accepted,
    eventually,
    message,
    running,
    until,
)


class Messages:
    """Routing, settling, dead-lettering, limits."""

    async def test_a_queue_receives_what_its_pattern_names(self, world: World) -> None:
        bus = world.bus(SCHEDULER_USER)
        one_word, rest, exact = quorum("a.*"), quorum("a.#"), quorum("a.b.c")
        inboxes = [Inbox(), Inbox(), Inbox()]
        async with running(bus):
            for queue, inbox in zip((one_word, rest, exact), inboxes, strict=True):
                await bus.declare([queue])
                await bus.consume(queue.name, inbox, prefetch=10)
            for key in ("a", "a.b", "a.b.c"):
                await bus.publish(message(EVENTS, key, key.encode()))
            await eventually(lambda: sum(len(inbox.got) for inbox in inboxes) == 5)
        assert [sorted(inbox.bodies) for inbox in inboxes] == [
            [b"a.b"],
            [b"a", b"a.b", b"a.b.c"],
            [b"a.b.c"],
        ]

    async def test_a_message_arrives_as_it_was_sent(self, world: World) -> None:
        bus, queue, inbox = world.bus(SCHEDULER_USER), quorum(), Inbox()
        async with running(bus):
            await bus.consume(queue, inbox, prefetch=1)
            await until(lambda: accepted(bus, message(EVENTS, "t.x", b"body")))
            await eventually(lambda: len(inbox.got) == 1)
        (got,) = inbox.got
        assert (got.exchange, got.routing_key, got.body) == (EVENTS, "t.x", b"body")
        assert got.headers["ce-id"] == "1"
        assert got.content_type == "application/msgpack"
        assert got.user_id == SCHEDULER_USER
        assert not got.redelivered

    async def test_what_was_acked_does_not_come_again(self, world: World) -> None:
        first, second, queue = world.bus(SCHEDULER_USER), world.bus(SCHEDULER_USER), quorum()
        before, after = Inbox(), Inbox()
        async with running(first):
            await first.declare([queue])
            await first.consume(queue.name, before, prefetch=4)
            await first.publish(message(EVENTS, "t.1", b"1"))
            await eventually(lambda: before.bodies == [b"1"])
        async with running(second):
            await second.consume(queue.name, after, prefetch=4)
            await second.publish(message(EVENTS, "t.2", b"2"))
            await eventually(lambda: len(after.got) == 1)
        assert after.bodies == [b"2"]

    async def test_unsettled_messages_come_back_first_and_in_order(self, world: World) -> None:
        first, second, queue = world.bus(SCHEDULER_USER), world.bus(SCHEDULER_USER), quorum()
        holding, inbox = Holding(), Inbox()
        async with running(second):
            async with running(first):
                await first.declare([queue])
                await first.consume(queue.name, holding, prefetch=4)
                for number in range(6):
                    await first.publish(message(EVENTS, "t.x", b"%d" % number))
                await eventually(lambda: len(holding.got) == 4)
            await second.consume(queue.name, inbox, prefetch=1)
            await eventually(lambda: len(inbox.got) == 6)
        assert inbox.bodies == [b"0", b"1", b"2", b"3", b"4", b"5"]
        assert [each.redelivered for each in inbox.got] == [True] * 4 + [False] * 2
        assert [each.returns for each in inbox.got] == [1] * 4 + [0] * 2

    async def test_a_cancelled_consumer_gives_its_messages_back(self, world: World) -> None:
        bus, queue, holding, inbox = world.bus(SCHEDULER_USER), quorum(), Holding(), Inbox()
        async with running(bus):
            await bus.declare([queue])
            consumer = await bus.consume(queue.name, holding, prefetch=4)
            await bus.publish(message(EVENTS, "t.x", b"1"))
            await eventually(lambda: len(holding.got) == 1)
            await consumer.cancel()
            await bus.consume(queue.name, inbox, prefetch=4)
            await eventually(lambda: inbox.bodies == [b"1"])

    async def test_a_rejected_message_goes_to_the_dead_letters(self, world: World) -> None:
        bus, queue, inbox, dead = world.bus(API_USER), quorum(), Inbox(Verdict.REJECT), Inbox()
        async with running(bus):
            await bus.declare([DEAD, queue])
            await bus.consume(queue.name, inbox, prefetch=4)
            await bus.consume(DEAD.name, dead, prefetch=4)
            await bus.publish(message(EVENTS, "t.x", b"bad"))
            await eventually(lambda: len(dead.got) == 1)
        assert len(inbox.got) == 1
        assert (dead.got[0].body, dead.got[0].routing_key) == (b"bad", "t.x")
        assert dead.got[0].headers["x-first-death-queue"] == queue.name
        assert dead.got[0].headers["x-first-death-reason"] == "rejected"

    async def test_the_delivery_limit_ends_in_the_dead_letters(self, world: World) -> None:
        bus, inbox, dead = world.bus(API_USER), Inbox(Verdict.RETRY), Inbox()
        queue = quorum(delivery_limit=3)
        async with running(bus):
            await bus.declare([DEAD, queue])
            await bus.consume(queue.name, inbox, prefetch=4)
            await bus.consume(DEAD.name, dead, prefetch=4)
            await bus.publish(message(EVENTS, "t.x", b"never"))
            await eventually(lambda: len(dead.got) == 1)
        assert [each.returns for each in inbox.got] == [0, 1, 2, 3]
        assert dead.got[0].headers["x-first-death-reason"] == "delivery_limit"

    async def test_a_handler_that_fails_is_retried_and_others_go_on(self, world: World) -> None:
        bus, queue, calls = world.bus(SCHEDULER_USER), quorum(), list[bytes]()

        async def fails_once(delivery: Delivery) -> Verdict:
            calls.append(delivery.body)
            if delivery.body == b"bad" and not delivery.redelivered:
                raise ZeroDivisionError
            return Verdict.ACK

        with structlog.testing.capture_logs() as logs:
            async with running(bus):
                await bus.declare([queue])
                await bus.consume(queue.name, fails_once, prefetch=2)
                await bus.publish(message(EVENTS, "t.x", b"bad"))
                await bus.publish(message(EVENTS, "t.x", b"good"))
                await eventually(lambda: len(calls) == 3)
        assert sorted(calls) == [b"bad", b"bad", b"good"]
        failures = [line for line in logs if line["event"] == "message handler failed"]
        assert [line["queue"] for line in failures] == [queue.name]

    async def test_a_message_past_its_time_is_not_delivered(self, world: World) -> None:
        bus, inbox = world.bus(MONITOR_USER), Inbox()
        queue = exclusive(message_ttl_s=0.2)
        async with running(bus):
            await bus.declare([queue])
            await bus.publish(message(EVENTS, "t.x", b"stale"))
            await asyncio.sleep(0.4)  # the time to live is what is tested
            await bus.publish(message(EVENTS, "t.x", b"fresh"))
            await bus.consume(queue.name, inbox, prefetch=4)
            await eventually(lambda: b"fresh" in inbox.bodies)
        assert inbox.bodies == [b"fresh"]

    async def test_a_full_exclusive_queue_drops_the_oldest(self, world: World) -> None:
        bus, inbox, queue = world.bus(MONITOR_USER), Inbox(), exclusive(length_max=3)
        async with running(bus):
            await bus.declare([queue])
            for number in range(6):
                await bus.publish(message(EVENTS, "t.x", b"%d" % number))
            await bus.consume(queue.name, inbox, prefetch=10)
            await eventually(lambda: len(inbox.got) == 3)
        assert inbox.bodies == [b"3", b"4", b"5"]

    async def test_a_full_quorum_queue_refuses_until_it_is_read(self, world: World) -> None:
        bus, inbox, queue = world.bus(SCHEDULER_USER), Inbox(), quorum(length_max=5)
        taken: list[bytes] = []
        async with running(bus):
            await bus.declare([queue])
            with pytest.raises(QueueFull):
                for number in range(50):  # RabbitMQ counts with some delay
                    await bus.publish(message(EVENTS, "t.x", b"%d" % number))
                    taken.append(b"%d" % number)
            assert len(taken) >= 5
            await bus.consume(queue.name, inbox, prefetch=10)
            await eventually(lambda: set(taken) <= set(inbox.bodies))
            await bus.publish(message(EVENTS, "t.x", b"again"))

    async def test_a_message_for_nobody_is_told_to_its_sender(self, world: World) -> None:
        bus = world.bus(SCHEDULER_USER)
        async with running(bus):
            await bus.declare([DEAD])
            with pytest.raises(Unroutable):
                await bus.publish(message(EVENTS, "nobody.listens"))
            await bus.publish(message(EVENTS, "nobody.listens", mandatory=False))

    async def test_only_one_consumer_of_a_single_active_queue_receives(self, world: World) -> None:
        bus, queue = world.bus(SCHEDULER_USER), quorum(single_active_consumer=True)
        active, waiting = Holding(), Inbox()
        async with running(bus):
            await bus.declare([queue])
            consumer = await bus.consume(queue.name, active, prefetch=1)
            await bus.publish(message(EVENTS, "t.x", b"0"))
            await eventually(lambda: len(active.got) == 1)
            await bus.consume(queue.name, waiting, prefetch=1)
            for number in range(1, 5):
                await bus.publish(message(EVENTS, "t.x", b"%d" % number))
            await asyncio.sleep(0.3)  # time for what must not happen
            assert waiting.got == []
            await consumer.cancel()
            await eventually(lambda: waiting.bodies == [b"0", b"1", b"2", b"3", b"4"])

    async def test_a_stream_is_read_again_from_any_offset(self, world: World) -> None:
        bus, all_of_it, tail, new = world.bus(API_USER), Inbox(), Inbox(), Inbox()
        async with running(bus):
            await bus.declare([DEAD, EVENT_STREAM])
            for number in range(5):
                await bus.publish(message(EVENTS, "node.up", b"%d" % number))
            await bus.consume(EVENT_STREAM.name, all_of_it, prefetch=2, offset="first")
            await eventually(lambda: len(all_of_it.got) == 5)
            await bus.consume(EVENT_STREAM.name, tail, prefetch=10, offset=3)
            await bus.consume(EVENT_STREAM.name, new, prefetch=10, offset="next")
            await eventually(lambda: len(tail.got) >= 2)
            await until(lambda: seen(bus, message(EVENTS, "node.up", b"new"), new))
        assert all_of_it.bodies[:5] == [b"0", b"1", b"2", b"3", b"4"]
        assert [each.headers["x-stream-offset"] for each in all_of_it.got[:5]] == [0, 1, 2, 3, 4]
        assert tail.bodies[:2] == [b"3", b"4"]
        assert set(new.bodies) == {b"new"}

    async def test_another_declaration_of_the_same_queue_is_refused(self, world: World) -> None:
        bus, queue = world.bus(SCHEDULER_USER), quorum(length_max=5)
        other = Queue(name=queue.name, kind=QueueKind.QUORUM, length_max=6)
        async with running(bus):
            await bus.declare([queue])
            await bus.declare([queue])
            with pytest.raises(BusRefused):
                await bus.declare([other])

    async def test_all_of_evacs_queues_can_be_declared_by_each_controller(
        self, world: World
    ) -> None:
        buses = [world.bus(user) for user in (API_USER, SCHEDULER_USER, MONITOR_USER)]
        async with running(*buses):
            for bus in buses:
                await bus.declare([*CONTROLLER_QUEUES, command_queue(N1)])
                await bus.delete_queue(command_queue(N1).name)
                await bus.delete_queue(command_queue(N1).name)

    async def test_a_consumer_survives_the_deletion_of_its_queue(self, world: World) -> None:
        bus, queue, inbox = world.bus(SCHEDULER_USER), quorum(), Inbox()
        with structlog.testing.capture_logs() as logs:
            async with running(bus):
                await bus.declare([queue])
                await bus.consume(queue.name, inbox, prefetch=4)
                await bus.publish(message(EVENTS, "t.x", b"1"))
                await eventually(lambda: len(inbox.got) == 1)
                await bus.delete_queue(queue.name)
                await eventually(lambda: "consumer cancelled by the broker" in sentences(logs))
                await bus.declare([queue])
                await bus.publish(message(EVENTS, "t.x", b"2"))
                await eventually(lambda: inbox.bodies == [b"1", b"2"])
