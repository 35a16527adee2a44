"""What any bus must do. Subclassed once for the embedded bus and once for RabbitMQ."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import MutableMapping
from typing import Any

import pytest
import structlog

from evac_common.bus.port import Binding, Bus, Delivery, Outgoing, Queue, QueueKind, Verdict
from evac_common.bus.topology import CONTROLLER_QUEUES, DEAD, EVENT_STREAM, command_queue
from evac_common.errors import BusRefused, BusUnavailable, EvacError, QueueFull, Unroutable
from evac_common.model.identity import (
    API_USER,
    MONITOR_USER,
    SCHEDULER_USER,
    node_user,
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

N1, N2 = "1" * 32, "2" * 32
EVENTS, REPORTS, COMMANDS, HEARTBEATS = (
    "evac.event",
    "evac.report",
    "evac.command",
    "evac.heartbeat",
)

_numbers = itertools.count(1)


def quorum(key: str = "t.#", **rules: object) -> Queue:
    """A queue for one test, bound to the events."""
    return Queue(
        name=f"evac.scheduler.test-{next(_numbers)}",
        kind=QueueKind.QUORUM,
        bindings=(Binding(exchange=EVENTS, routing_key=key),),
        **rules,  # type: ignore[arg-type] # the test names fields of Queue
    )


def exclusive(key: str = "t.#", **rules: object) -> Queue:
    return Queue(
        name=f"evac.monitor.test-{next(_numbers)}",
        kind=QueueKind.EXCLUSIVE,
        bindings=(Binding(exchange=EVENTS, routing_key=key),),
        delivery_limit=None,
        dead_letter_exchange=None,
        **rules,  # type: ignore[arg-type] # the test names fields of Queue
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
            await until(lambda: _seen(bus, message(EVENTS, "node.up", b"new"), new))
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
                await eventually(lambda: "consumer cancelled by the broker" in _said(logs))
                await bus.declare([queue])
                await bus.publish(message(EVENTS, "t.x", b"2"))
                await eventually(lambda: inbox.bodies == [b"1", b"2"])


class Users:
    """Who may do what, and whose name is on a message."""

    async def test_a_node_reports_and_beats_under_its_own_name_only(self, world: World) -> None:
        scheduler, node, reports = world.bus(SCHEDULER_USER), await _node(world, N1), Inbox()
        user = node_user(N1)
        async with running(scheduler, node):
            await scheduler.declare(CONTROLLER_QUEUES)
            await scheduler.consume("evac.scheduler.reports", reports, prefetch=4)
            await node.publish(message(REPORTS, f"{user}.started", b"mine"))
            for exchange, key in (
                (REPORTS, f"{node_user(N2)}.started"),
                (REPORTS, f"{user}x.started"),
                (COMMANDS, f"compute.{user}.start"),
                (EVENTS, "node.down"),
                ("evac.dead", "x"),
                ("", command_queue(N2).name),
            ):
                with pytest.raises(BusRefused):
                    await node.publish(message(exchange, key, b"not mine"))
            await node.publish(message(REPORTS, f"{user}.stopped", b"mine too"))
            await eventually(lambda: len(reports.got) == 2)
        assert reports.bodies == [b"mine", b"mine too"]
        assert {each.user_id for each in reports.got} == {user}

    async def test_a_forged_name_is_refused_and_the_next_message_passes(self, world: World) -> None:
        scheduler = world.bus(SCHEDULER_USER)
        await world.admin.create_node_user(N1)
        forger, user = world.bus(node_user(N1), claims=node_user(N2)), node_user(N1)
        async with running(scheduler, forger):
            await scheduler.declare(CONTROLLER_QUEUES)
            for _ in range(2):
                with pytest.raises(BusRefused):
                    await forger.publish(message(REPORTS, f"{user}.started"))

    async def test_a_missing_name_stays_missing(self, world: World) -> None:
        scheduler, inbox = world.bus(SCHEDULER_USER), Inbox()
        await world.admin.create_node_user(N1)
        nameless = world.bus(node_user(N1), claims=None)
        async with running(scheduler, nameless):
            await scheduler.declare(CONTROLLER_QUEUES)
            await scheduler.consume("evac.scheduler.reports", inbox, prefetch=4)
            await nameless.publish(message(REPORTS, f"{node_user(N1)}.started"))
            await eventually(lambda: len(inbox.got) == 1)
        assert inbox.got[0].user_id is None

    async def test_a_node_reads_its_own_queue_and_no_other(self, world: World) -> None:
        scheduler, node = world.bus(SCHEDULER_USER), await _node(world, N1)
        own, foreign = Inbox(), Inbox()
        async with running(scheduler, node):
            await scheduler.declare([*CONTROLLER_QUEUES, command_queue(N1), command_queue(N2)])
            await node.consume(command_queue(N2).name, foreign, prefetch=4)
            await node.consume(command_queue(N1).name, own, prefetch=4)
            for node_id in (N2, N1):
                key = f"compute.{node_user(node_id)}.start"
                await scheduler.publish(message(COMMANDS, key, node_id.encode()))
            await eventually(lambda: len(own.got) == 1)
            await asyncio.sleep(0.2)  # time for what must not happen
        assert own.bodies == [N1.encode()]
        assert foreign.got == []

    async def test_a_node_declares_and_deletes_nothing(self, world: World) -> None:
        node = await _node(world, N1)
        async with running(node):
            with pytest.raises(BusRefused):
                await node.declare([command_queue(N1)])
            with pytest.raises(BusRefused):
                await node.delete_queue(command_queue(N1).name)

    async def test_controllers_publish_only_what_they_write(self, world: World) -> None:
        key = f"compute.{node_user(N1)}"
        allowed = {API_USER: None, SCHEDULER_USER: "start", MONITOR_USER: "session"}
        buses = {user: world.bus(user) for user in allowed}
        async with running(*buses.values()):
            await buses[API_USER].declare([*CONTROLLER_QUEUES, command_queue(N1)])
            for user, verb in allowed.items():
                for tried in ("start", "session"):
                    if tried == verb:
                        await buses[user].publish(message(COMMANDS, f"{key}.{tried}"))
                    else:
                        with pytest.raises(BusRefused):
                            await buses[user].publish(message(COMMANDS, f"{key}.{tried}"))
                with pytest.raises(BusRefused):
                    await buses[user].publish(message(REPORTS, f"{node_user(N1)}.started"))
                with pytest.raises(BusRefused):
                    await buses[user].publish(message("", command_queue(N1).name))

    async def test_only_the_culprit_of_many_in_flight_is_refused(self, world: World) -> None:
        bus, queue, inbox = world.bus(SCHEDULER_USER, careful=True), quorum(), Inbox()
        async with running(bus):
            await bus.declare([queue])
            outcomes = await asyncio.gather(
                *(
                    bus.publish(message(REPORTS if number == 20 else EVENTS, "t.x", b"%d" % number))
                    for number in range(40)
                ),
                return_exceptions=True,
            )
            sure = {b"%d" % number for number, outcome in enumerate(outcomes) if outcome is None}
            await bus.consume(queue.name, inbox, prefetch=50)
            await eventually(lambda: sure <= set(inbox.bodies))
        refused = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, BusRefused)]
        assert refused == [20]
        assert all(
            outcome is None or isinstance(outcome, BusUnavailable)
            for number, outcome in enumerate(outcomes)
            if number != 20
        )

    async def test_an_unknown_user_is_told_so_and_asked_about_again(self, world: World) -> None:
        stranger = world.bus(node_user(N1))
        task = asyncio.create_task(stranger.run())
        with structlog.testing.capture_logs() as logs:
            await eventually(lambda: stranger.health().detail not in {"", "not connected yet"})
            with pytest.raises(BusRefused):
                await stranger.publish(message(REPORTS, f"{node_user(N1)}.started"))
            await asyncio.sleep(world.timings.backoff_max_s * 3)
        assert not stranger.health().connected
        assert _said(logs).count("bus not connected") == 1
        task.cancel()
        await asyncio.wait([task])

    async def test_a_deleted_user_is_put_out(self, world: World) -> None:
        node = await _node(world, N1)
        async with running(node):
            await world.admin.delete_node_user(N1)
            await world.admin.delete_node_user(N1)
            await eventually(lambda: not node.health().connected)
            await until(lambda: _is_refused(node))


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
            await until(lambda: _is_unroutable(other, message(EVENTS, "t.x")))

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
        assert "message handler failed" not in _said(logs)

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
        said = _said(logs)
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
            await until(lambda: _seen(bus, message(EVENTS, "t.x", b"later"), inbox))
            await eventually(lambda: bus.health().canary_at_s != stale_s)

    async def test_every_kind_of_user_has_its_canary(self, world: World) -> None:
        controller, node = world.bus(MONITOR_USER), await _node(world, N1)
        async with running(controller, node):
            for bus in (controller, node):
                await _next_canary(bus)
                await _next_canary(bus)

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
        monitor, node, inbox = world.bus(MONITOR_USER), await _node(world, N1), Inbox()
        queue = Queue(
            name=f"evac.monitor.heartbeats.test-{next(_numbers)}",
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


class BusContract(Messages, Users, Failures):
    """All of it."""


async def _node(world: World, node_id: str) -> Bus:
    await world.admin.create_node_user(node_id)
    return world.bus(node_user(node_id))


async def _seen(bus: Bus, outgoing: Outgoing, inbox: Inbox) -> bool:
    """Publish, and whether the inbox has one of these yet."""
    await accepted(bus, outgoing)
    return outgoing.body in inbox.bodies


async def _next_canary(bus: Bus) -> None:
    last_s = bus.health().canary_at_s or 0.0
    await eventually(lambda: (bus.health().canary_at_s or 0.0) > last_s)


async def _is_unroutable(bus: Bus, outgoing: Outgoing) -> bool:
    try:
        await bus.publish(outgoing)
    except Unroutable:
        return True
    return False


async def _is_refused(bus: Bus) -> bool:
    try:
        await bus.publish(message(REPORTS, "x"))
    except BusRefused:
        return True
    except BusUnavailable:
        return False
    return False


def _said(logs: list[MutableMapping[str, Any]]) -> list[str]:
    return [line["event"] for line in logs]
