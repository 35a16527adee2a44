"""Brokers that die, links that are cut, alarms."""

from __future__ import annotations

import asyncio
import itertools

import pytest
import structlog

from evac_common.bus.port import Binding, Delivery, Queue, QueueKind, Verdict
from evac_common.bus.topology import DEAD
from evac_common.errors import BusRefused, BusUnavailable, EvacError
from evac_common.model.identity import (
    API_USER,
    MONITOR_USER,
    SCHEDULER_USER,
    node_user,
)
from tests.contract.bus.pieces import (
    EVENTS,
    HEARTBEATS,
    N1,
    bus_of_node,
    exclusive,
    is_unroutable,
    next_canary,
    numbers,
    quorum,
    seen,
    sentences,
)
from tests.contract.bus.world import (
    Inbox,
    World,
    accepted,
    eventually,
    message,
    running,
    until,
)


class Failures:
    """The broker dies, hangs, is away; the network is cut."""

    async def test_an_exclusive_queue_goes_with_its_connection(self, world: World) -> None:
        owner, other, queue = world.bus(MONITOR_USER), world.bus(SCHEDULER_USER), exclusive()
        async with running(other):
            async with running(owner):
                await owner.declare([DEAD, queue])
                await other.publish(message(EVENTS, "t.x"))
                with pytest.raises(BusRefused):
                    await other.declare([queue])
            await until(lambda: is_unroutable(other, message(EVENTS, "t.x")))

    async def test_no_confirmed_message_is_lost_when_the_broker_is_killed(
        self, world: World
    ) -> None:
        bus, queue, inbox = world.bus(SCHEDULER_USER), quorum(), Inbox()
        confirmed: set[bytes] = set()
        failed: list[EvacError] = []

        async def publish_for_ever() -> None:
            for number in itertools.count():
                body = b"%d" % number
                try:
                    await bus.publish(message(EVENTS, "t.x", body))
                    confirmed.add(body)
                except BusUnavailable as error:
                    failed.append(error)
                await asyncio.sleep(0.005)

        async with running(bus):
            await bus.declare([queue])
            await bus.consume(queue.name, inbox, prefetch=5)
            publishing = [asyncio.create_task(publish_for_ever())]
            await eventually(lambda: len(inbox.got) > 20)
            await world.kill()
            await eventually(lambda: len(failed) > 5)
            assert not bus.health().connected
            await world.restart()
            before = len(confirmed)
            await eventually(lambda: len(confirmed) > before + 20, deadline_s=30)
            publishing[0].cancel()
            await asyncio.wait(publishing)
            await eventually(lambda: confirmed <= set(inbox.bodies))
        assert bus.health().connected is False
        assert bus.counters.reconnects >= 1

    async def test_a_publish_in_flight_on_a_cut_link_ends_in_unknown(self, world: World) -> None:
        bus, queue = world.bus(SCHEDULER_USER), quorum()
        async with running(bus):
            await bus.declare([queue])
            await bus.publish(message(EVENTS, "t.x"))
            world.cut(SCHEDULER_USER)
            began_s = asyncio.get_running_loop().time()
            with pytest.raises(BusUnavailable):
                await bus.publish(message(EVENTS, "t.x"))
            took_s = asyncio.get_running_loop().time() - began_s
            await eventually(lambda: not bus.health().connected)
            with pytest.raises(BusUnavailable):
                await bus.publish(message(EVENTS, "t.x"))
            world.heal(SCHEDULER_USER)
            await eventually(lambda: bus.health().connected)
            await bus.publish(message(EVENTS, "t.x"))
        assert took_s <= world.timings.call_limit_s + 1.0

    async def test_a_consumer_cut_off_gets_its_messages_again(self, world: World) -> None:
        consumer, producer = world.bus(SCHEDULER_USER), world.bus(API_USER)
        queue, cancelled, got = quorum(), list[bytes](), list[tuple[bytes, bool]]()

        async def holds_the_first_time(delivery: Delivery) -> Verdict:
            if not delivery.redelivered and delivery.body == b"1":
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(delivery.body)
                    raise
            got.append((delivery.body, delivery.redelivered))
            return Verdict.ACK

        with structlog.testing.capture_logs() as logs:
            async with running(consumer, producer):
                await producer.declare([queue])
                await consumer.consume(queue.name, holds_the_first_time, prefetch=1)
                await producer.publish(message(EVENTS, "t.x", b"1"))
                await asyncio.sleep(0.1)
                world.cut(SCHEDULER_USER)
                await producer.publish(message(EVENTS, "t.x", b"2"))
                await eventually(lambda: cancelled == [b"1"])
                world.heal(SCHEDULER_USER)
                await eventually(lambda: len(got) == 2, deadline_s=40)
        assert got == [(b"1", True), (b"2", False)]
        # To lose the connection is nothing that a handler did wrong.
        assert "message handler failed" not in sentences(logs)

    async def test_a_broker_away_at_start_is_said_once_and_waited_for(self, world: World) -> None:
        bus, queue, inbox = world.bus(SCHEDULER_USER), quorum(), Inbox()
        await world.kill()
        with structlog.testing.capture_logs() as logs:
            task = asyncio.create_task(bus.run())
            await bus.consume(queue, inbox, prefetch=4)
            with pytest.raises(BusUnavailable):
                await bus.publish(message(EVENTS, "t.x"))
            await asyncio.sleep(world.timings.backoff_max_s * 4)
            assert not bus.health().connected
            assert bus.health().detail
            await world.restart()
            await until(lambda: accepted(bus, message(EVENTS, "t.x")))
            await eventually(lambda: len(inbox.got) >= 1)
        said = sentences(logs)
        task.cancel()
        await asyncio.wait([task])
        assert said.count("bus not connected") == 1
        assert said.count("bus connected") == 1

    async def test_an_alarm_stops_publishing_and_the_canary_and_nothing_else(
        self, world: World
    ) -> None:
        bus, queue, inbox = world.bus(SCHEDULER_USER), quorum(), Inbox()
        async with running(bus):
            await bus.declare([queue])
            await bus.consume(queue.name, inbox, prefetch=4)
            await eventually(lambda: bus.health().canary_at_s is not None)
            await world.alarm(on=True)
            with pytest.raises(BusUnavailable):
                for _ in range(20):  # the alarm takes hold of the first that publishes after it
                    await bus.publish(message(EVENTS, "t.x", b"blocked"))
                    await asyncio.sleep(0.05)
            stale_s = bus.health().canary_at_s
            await asyncio.sleep(world.timings.canary_every_s * 3)
            assert bus.health().canary_at_s == stale_s
            await world.alarm(on=False)
            await until(lambda: seen(bus, message(EVENTS, "t.x", b"later"), inbox))
            await eventually(lambda: bus.health().canary_at_s != stale_s)

    async def test_every_kind_of_user_has_its_canary(self, world: World) -> None:
        controller, node = world.bus(MONITOR_USER), await bus_of_node(world, N1)
        async with running(controller, node):
            for bus in (controller, node):
                await next_canary(bus)
                await next_canary(bus)

    async def test_cancelling_a_publish_is_no_error_of_the_bus(self, world: World) -> None:
        bus, queue = world.bus(SCHEDULER_USER), quorum()
        async with running(bus):
            await bus.declare([queue])
            world.cut(SCHEDULER_USER)
            publishing = asyncio.create_task(bus.publish(message(EVENTS, "t.x")))
            await asyncio.sleep(0.05)
            publishing.cancel()
            await asyncio.wait([publishing])
            world.heal(SCHEDULER_USER)
        assert publishing.cancelled()

    async def test_a_heartbeat_is_sent_and_forgotten(self, world: World) -> None:
        monitor, node, inbox = world.bus(MONITOR_USER), await bus_of_node(world, N1), Inbox()
        queue = Queue(
            name=f"evac.monitor.heartbeats.test-{next(numbers)}",
            kind=QueueKind.EXCLUSIVE,
            bindings=(Binding(exchange=HEARTBEATS, routing_key="#"),),
            delivery_limit=None,
            dead_letter_exchange=None,
        )
        beat = message(HEARTBEATS, node_user(N1), confirm=False, mandatory=False)
        async with running(monitor, node):
            await monitor.declare([queue])
            await monitor.consume(queue.name, inbox, prefetch=100)
            await node.publish(beat)
            await eventually(lambda: len(inbox.got) == 1)
            await monitor.delete_queue(queue.name)
            await node.publish(beat)  # nobody hears it, and nobody is told
        assert inbox.got[0].user_id == node_user(N1)
