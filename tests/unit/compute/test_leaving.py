"""The machine shuts down in good order: guests are stopped and released, and the daemon ends."""

from __future__ import annotations

import asyncio

from evac_common.bus.topology import command_queue
from evac_common.messages.heartbeats import Heartbeat
from evac_common.messages.reports import Started, Stopped, StopReason
from evac_compute.leaving import LIMIT_S
from tests.unit.compute.world import NODE_ID, World, id_of, in_world


async def _over(world: World, *, within_s: float) -> None:
    """The daemon ends by itself, without an error."""
    assert world.daemon is not None
    async with asyncio.timeout(within_s):
        await world.daemon
    world.daemon = None


def test_every_guest_is_stopped_released_and_reported_and_then_the_daemon_ends() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        for name, epoch in (("web", 1), ("db", 4)):
            await world.say(world.start(name, epoch=epoch))
        await world.hear(Started, count=2)

        world.leaving.set()
        await _over(world, within_s=10)

        assert world.executing() == []
        assert [entry.why for entry in world.log] == ["guest poweroff"] * 2
        said = {(report.instance_id, report.epoch, report.reason) for report in world.all(Stopped)}
        assert said == {
            (id_of("web"), 1, StopReason.NODE_SHUTDOWN),
            (id_of("db"), 4, StopReason.NODE_SHUTDOWN),
        }
        assert world.journal.load().tombs == {id_of("web"): 1, id_of("db"): 4}

    in_world(test)


def test_it_says_at_once_that_it_leaves_so_that_nothing_more_is_placed_there() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        world.hypervisor.ignore_power_button(id_of("web"))  # so that it takes a while
        assert all(not beat.troubles for beat in world.all(Heartbeat))

        world.leaving.set()
        await world.settle(0.5)  # well before the next beat is due
        told = world.all(Heartbeat)[-1].troubles
        assert told == {"shutting_down": "its machine shuts down in good order"}
        assert world.executing() == [("web", 1, 1)], "said before its guests are stopped"

        await _over(world, within_s=60)
        assert "shutting_down" in world.all(Heartbeat)[-1].troubles

    in_world(test, heartbeat_interval_s=5.0)


def test_a_node_without_guests_says_so_too_before_it_ends() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        world.leaving.set()
        await _over(world, within_s=10)
        assert list(world.all(Heartbeat)[-1].troubles) == ["shutting_down"]

    in_world(test, heartbeat_interval_s=5.0)


def test_a_broker_that_takes_no_beat_does_not_keep_the_machine_from_shutting_down() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        world.broker.alarm(True)  # a publish does not come back
        world.leaving.set()
        await _over(world, within_s=LIMIT_S + 30)

    in_world(test)


def test_stopping_the_daemon_alone_touches_no_guest_and_says_nothing() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)

        world.stop.set()
        await _over(world, within_s=10)

        assert world.executing() == [("web", 1, 1)]
        assert world.all(Stopped) == []
        assert world.journal.load().tombs == {}

    in_world(test)


def test_a_start_that_comes_while_the_machine_shuts_down_is_left_in_the_queue() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        world.hypervisor.ignore_power_button(id_of("web"))  # so that it takes a while

        world.leaving.set()
        await world.settle(1)
        await world.say(world.start("db"))
        await _over(world, within_s=60)

        assert world.executing() == []
        assert {entry.instance_id for entry in world.log} == {id_of("web")}
        waiting = world.state.waiting(command_queue(NODE_ID).name)
        assert len(waiting) == 1, "nobody has taken it: the node's next life refuses it"

    in_world(test)


def test_a_start_under_way_is_brought_to_its_end_and_released_too() -> None:
    async def test(world: World) -> None:
        world.hypervisor.start_delay_s = 5.0
        await world.into_session()
        await world.say(world.start("web"))
        await world.settle(1)

        world.leaving.set()
        await _over(world, within_s=60)

        assert world.executing() == []
        assert world.journal.load().tomb(id_of("web")) == 1
        assert [report.epoch for report in world.all(Stopped)] == [1]

    in_world(test)


def test_a_guest_that_cannot_be_ended_is_never_reported_as_stopped() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        world.hypervisor.hang_storage()

        world.leaving.set()
        await _over(world, within_s=LIMIT_S + 30)

        assert world.executing() == [("web", 1, 1)]
        assert world.all(Stopped) == []

    in_world(test)


def test_out_of_session_guests_are_stopped_and_the_tombstone_stays_for_later() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        world.kill_daemon()
        world.start_daemon()
        await world.settle(1)

        world.leaving.set()
        await _over(world, within_s=30)

        assert world.executing() == []
        assert world.all(Stopped) == []
        assert world.journal.load().tomb(id_of("web")) == 1

    in_world(test)
