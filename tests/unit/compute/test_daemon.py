"""The daemon as the controllers see it: what it is told, what it does, what it reports."""

from __future__ import annotations

import pytest

from evac_common.errors import BusRefused
from evac_common.messages.commands import InstanceSpec, NicSpec
from evac_common.messages.heartbeats import Heartbeat
from evac_common.messages.reports import (
    CommandRefused,
    Destroyed,
    Exited,
    Inventory,
    RefusalReason,
    Registered,
    Started,
    StartErrorKind,
    StartFailed,
    StartRefused,
    Stopped,
)
from evac_common.model.identity import MONITOR_USER, SCHEDULER_USER
from evac_common.model.states import ExitReason
from tests.unit.compute.world import NODE_ID, TERM, World, id_of, in_world


def test_a_node_registers_gets_a_session_starts_an_instance_and_reports_it() -> None:
    async def test(world: World) -> None:
        registered = await world.hear(Registered)
        assert (registered.node_id, registered.incarnation) == (NODE_ID, 1)
        assert registered.inventory == []

        await world.into_session()
        await world.say(world.start("web"))
        started = await world.hear(Started)

        assert (started.term, started.incarnation, started.epoch, started.run) == (TERM, 1, 1, 1)
        assert world.executing() == [("web", 1, 1)]
        await world.until(lambda: any(i.domains for i in world.all(Inventory)))
        seen = world.all(Inventory)[-1].domains[0]
        assert (seen.instance_id, seen.epoch, seen.run, seen.running) == (id_of("web"), 1, 1, True)

    in_world(test)


def test_it_registers_until_a_session_comes_and_then_no_more() -> None:
    async def test(world: World) -> None:
        await world.hear(Registered, count=3)
        assert all(beat.term == 0 for beat in world.all(Heartbeat))
        await world.into_session()
        said = len(world.all(Registered))

        await world.settle(60)

        assert len(world.all(Registered)) == said
        assert world.all(Heartbeat)[-1].term == TERM
        beats = [beat.sequence for beat in world.all(Heartbeat)]
        assert beats == sorted(set(beats))

    in_world(test)


def test_a_command_before_the_session_is_refused_and_frees_nothing() -> None:
    async def test(world: World) -> None:
        await world.hear(Registered)
        await world.say(world.start("web"))
        refused = await world.hear(CommandRefused)
        assert refused.reason is RefusalReason.NO_SESSION
        assert world.log == []
        assert world.journal.load().tombs == {}

    in_world(test)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"term": TERM - 1}, RefusalReason.OLD_GEN),
        ({"term": TERM + 1}, RefusalReason.OLD_GEN),
        ({"incarnation": 9}, RefusalReason.OLD_GEN),
        ({"late_s": 1.0}, RefusalReason.DEADLINE),
    ],
)
def test_a_start_of_another_session_or_too_late_is_refused(
    change: dict[str, float], reason: RefusalReason
) -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web", **change))  # type: ignore[arg-type] # one of several fields
        refused = await world.hear(CommandRefused)
        assert refused.reason is reason
        assert (refused.verb, refused.instance_id, refused.epoch) == ("start", id_of("web"), 1)
        assert world.log == []

    in_world(test)


def test_the_same_start_again_says_started_again_and_starts_nothing() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        start = world.start("web")
        for _ in range(3):  # at once: it is one command, carried out once
            await world.say(start)
        await world.hear(Started)
        await world.settle()
        await world.say(start)
        await world.hear(Started, count=2)
        await world.say(world.start("web"))  # the same run, under another command id
        await world.hear(Started, count=3)
        assert len(world.log) == 1
        assert world.reports() == ["started"] * 3

    in_world(test)


def test_an_older_run_is_refused_and_a_newer_one_of_a_running_epoch_is_taken_over() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web", run=2))
        await world.hear(Started)

        await world.say(world.start("web", run=1))
        assert (await world.hear(CommandRefused)).reason is RefusalReason.OLD_RUN

        await world.say(world.start("web", run=3))
        assert (await world.hear(Started, count=2)).run == 3
        assert len(world.log) == 1

        await world.say(world.start("web", run=2))
        refused = await world.hear(CommandRefused, count=2)
        assert refused.reason is RefusalReason.OLD_RUN
        await world.until(lambda: any(d.run == 3 for i in world.all(Inventory) for d in i.domains))

    in_world(test)


def test_a_start_beside_another_epoch_is_refused() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web", epoch=4))
        await world.hear(Started)
        await world.say(world.start("web", epoch=5))
        refused = await world.hear(CommandRefused)
        assert refused.reason is RefusalReason.OTHER_EPOCH_PRESENT
        assert world.executing() == [("web", 4, 1)]

    in_world(test)


def test_stop_releases_the_epoch_for_good() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        start = world.start("web", epoch=2)
        await world.say(start)
        await world.hear(Started)

        await world.say(world.stop_command("web", epoch=2))
        stopped = await world.hear(Stopped)

        assert stopped.epoch == 2
        assert world.executing() == []
        assert world.journal.load().tomb(id_of("web")) == 2
        assert world.log[0].why == "guest poweroff"

        await world.say(world.start("web", epoch=1))
        assert (await world.hear(CommandRefused)).reason is RefusalReason.OLD_EPOCH
        await world.say(start)  # late, of the released epoch: the release is said again
        assert (await world.hear(StartRefused)).kind is StartErrorKind.RELEASED
        await world.say(world.start("web", epoch=2, run=9))
        await world.hear(StartRefused, count=2)
        await world.say(world.stop_command("web", epoch=2))
        await world.hear(Stopped, count=2)
        assert len(world.log) == 1

        await world.say(world.start("web", epoch=3))
        await world.hear(Started, count=2)
        assert world.executing() == [("web", 3, 1)]
        assert "exited" not in world.reports()

    in_world(test)


def test_a_guest_that_ignores_the_power_button_is_ended_after_its_grace() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        world.hypervisor.ignore_power_button(id_of("web"))
        began_s = world.clock.monotonic()

        await world.say(world.stop_command("web", grace_s=20))
        await world.hear(Stopped)

        assert 20 <= world.clock.monotonic() - began_s < 22
        assert world.log[0].why == "destroyed"

    in_world(test)


def test_the_tombstone_is_on_disk_before_anything_is_ended() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        world.hypervisor.ignore_power_button(id_of("web"))
        await world.say(world.stop_command("web", grace_s=30))
        await world.settle(5)
        assert world.journal.load().tomb(id_of("web")) == 1
        assert world.executing() == [("web", 1, 1)]
        assert world.all(Stopped) == []

    in_world(test)


def test_destroy_ends_at_once_and_leaves_higher_epochs_alone() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("old", epoch=2))
        await world.say(world.start("new", epoch=5))
        await world.hear(Started, count=2)
        await world.say(world.destroy("old", epoch=3))
        await world.say(world.destroy("new", epoch=4))
        await world.hear(Destroyed, count=2)
        assert world.executing() == [("new", 5, 1)]
        assert world.reports().count("exited") == 0
        await world.say(world.start("old", epoch=3))
        assert (await world.hear(StartRefused)).epoch == 3

    in_world(test)


@pytest.mark.parametrize(
    ("user", "verb"),
    [(MONITOR_USER, "start"), (SCHEDULER_USER, "session")],
)
def test_the_broker_keeps_controllers_from_saying_what_is_not_theirs(user: str, verb: str) -> None:
    async def test(world: World) -> None:
        await world.into_session()
        command = world.start("web") if verb == "start" else world.session()
        with pytest.raises(BusRefused):
            await world.say(command, user=user)

    in_world(test)


@pytest.mark.parametrize(
    "kind",
    [
        StartErrorKind.INVALID,
        StartErrorKind.CAPACITY,
        StartErrorKind.NETWORK,
        StartErrorKind.STORAGE,
    ],
)
def test_what_this_node_can_never_run_is_released(kind: StartErrorKind) -> None:
    async def test(world: World) -> None:
        await world.into_session()
        world.hypervisor.refuse_starts(kind, times=1, detail="says the hypervisor")
        await world.say(world.start("web", epoch=3))
        refused = await world.hear(StartRefused)
        assert (refused.kind, refused.epoch, refused.detail) == (kind, 3, "says the hypervisor")
        assert world.journal.load().tomb(id_of("web")) == 3
        assert world.log == []

    in_world(test)


@pytest.mark.parametrize("kind", [StartErrorKind.STORAGE_LOCKED, StartErrorKind.HYPERVISOR])
def test_what_may_be_running_elsewhere_or_may_work_later_keeps_its_epoch(
    kind: StartErrorKind,
) -> None:
    async def test(world: World) -> None:
        await world.into_session()
        world.hypervisor.refuse_starts(kind, times=1)
        start = world.start("web", epoch=3)
        await world.say(start)
        failed = await world.hear(StartFailed)
        assert (failed.kind, failed.epoch, failed.run) == (kind, 3, 1)
        assert world.journal.load().tomb(id_of("web")) == 0

        await world.say(start)  # that run is spent
        assert (await world.hear(CommandRefused)).reason is RefusalReason.OLD_RUN
        await world.say(world.start("web", epoch=3, run=2))
        await world.hear(Started)
        assert [entry.run for entry in world.log] == [2]

    in_world(test)


def test_a_missing_bridge_and_missing_memory_are_found_by_the_hypervisor() -> None:
    async def test(world: World) -> None:
        world.hypervisor.core.bridges = ("br0",)
        await world.into_session()
        nic = NicSpec(bridge="br9", mac="52:54:00:00:00:01")
        spec = InstanceSpec(name="web", vcpus=1, memory_mib=64, nics=[nic])
        await world.say(world.start("web", spec=spec))
        assert (await world.hear(StartRefused)).kind is StartErrorKind.NETWORK
        big = InstanceSpec(name="big", vcpus=1, memory_mib=1 << 20)
        await world.say(world.start("big", spec=big))
        assert (await world.hear(StartRefused, count=2)).kind is StartErrorKind.CAPACITY

    in_world(test)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("poweroff", ExitReason.SHUTDOWN),
        ("crash", ExitReason.CRASHED),
        ("panic", ExitReason.PANICKED),
    ],
)
def test_a_guest_that_ends_by_itself_is_reported_once_and_repeated_in_the_inventory(
    how: str, reason: ExitReason
) -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        world.hypervisor.end_guest(id_of("web"), how)
        exited = await world.hear(Exited)
        assert (exited.reason, exited.epoch, exited.run) == (reason, 1, 1)
        await world.settle(60)
        assert len(world.all(Exited)) == 1
        gone = world.all(Inventory)[-1].exited
        assert [(seen.instance_id, seen.epoch, seen.run) for seen in gone] == [(id_of("web"), 1, 1)]

        await world.say(world.start("web", run=2))
        await world.hear(Started, count=2)
        await world.settle(15)
        assert world.all(Inventory)[-1].exited == []

    in_world(test)
