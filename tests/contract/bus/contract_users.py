"""Who may do what, and whom a message is from."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from evac_common.bus.topology import CONTROLLER_QUEUES, command_queue
from evac_common.errors import BusRefused, BusUnavailable
from evac_common.model.identity import (
    API_USER,
    MONITOR_USER,
    SCHEDULER_USER,
    node_user,
)
from tests.contract.bus.pieces import (
    COMMANDS,
    EVENTS,
    N1,
    N2,
    REPORTS,
    bus_of_node,
    is_refused,
    quorum,
    sentences,
)
from tests.contract.bus.world import (
    Inbox,
    World,
    eventually,
    message,
    running,
    until,
)


class Users:
    """Who may do what, and whose name is on a message."""

    async def test_a_node_reports_and_beats_under_its_own_name_only(self, world: World) -> None:
        scheduler, node, reports = world.bus(SCHEDULER_USER), await bus_of_node(world, N1), Inbox()
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
        scheduler, node = world.bus(SCHEDULER_USER), await bus_of_node(world, N1)
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
        node = await bus_of_node(world, N1)
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
        assert sentences(logs).count("bus not connected") == 1
        task.cancel()
        await asyncio.wait([task])

    async def test_a_deleted_user_is_put_out(self, world: World) -> None:
        node = await bus_of_node(world, N1)
        async with running(node):
            await world.admin.delete_node_user(N1)
            await world.admin.delete_node_user(N1)
            await eventually(lambda: not node.health().connected)
            await until(lambda: is_refused(node))
