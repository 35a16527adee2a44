"""The daemon as the controllers see it: what it is told, what it does, what it reports."""

from __future__ import annotations

import pytest

from evac_common.bus.embedded import EmbeddedBroker
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
    SessionApplied,
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


def test_a_guest_that_ends_while_nobody_watches_is_lost_but_not_forgotten() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        world.hypervisor.go_away()
        world.hypervisor.end_guest(id_of("web"), "crash")
        await world.settle(30)
        assert world.all(Exited) == []
        world.hypervisor.come_back()
        exited = await world.hear(Exited, within_s=2)
        assert exited.reason is ExitReason.LOST

    in_world(test)


def test_a_start_of_unknown_outcome_frees_nothing_and_reality_decides() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        world.hypervisor.hang_starts()
        await world.say(world.start("web"))
        failed = await world.hear(StartFailed, within_s=120)
        assert failed.kind is StartErrorKind.HYPERVISOR
        assert "unknown" in failed.detail
        assert world.journal.load().tombs == {}

        world.hypervisor.resume()
        await world.settle(30)
        assert world.log == [], "nobody waits for this start any more: it must not execute"

        await world.say(world.start("web", run=2))
        await world.hear(Started)
        assert [(entry.run, entry.ended_at) for entry in world.log] == [(2, None)]

    in_world(test, start_time_limit_s=20)


def test_nothing_executes_after_stopped_was_said_however_late_the_hypervisor_acts() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        world.hypervisor.hang_starts()
        await world.say(world.start("web"))
        await world.hear(StartFailed, within_s=120)
        await world.say(world.stop_command("web", grace_s=0))
        await world.hear(Stopped)

        world.hypervisor.resume()
        await world.settle(30)

        assert world.log == []
        assert world.hypervisor.core.guests == {}, "what was built late is cleared away"

    in_world(test, start_time_limit_s=20)


def test_a_stop_waits_for_a_hypervisor_that_is_away_and_says_nothing_before() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        world.hypervisor.hang()
        await world.say(world.stop_command("web", grace_s=0))
        await world.settle(120)
        assert world.all(Stopped) == []
        world.hypervisor.resume()
        await world.hear(Stopped, within_s=20)
        assert world.executing() == []

    in_world(test)


def test_one_slow_instance_holds_up_no_other() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("slow"))
        await world.hear(Started)
        world.hypervisor.ignore_power_button(id_of("slow"))
        await world.say(world.stop_command("slow", grace_s=300))
        await world.say(world.start("quick"))
        await world.hear(Started, count=2, within_s=3)

    in_world(test)


def test_stopping_the_daemon_touches_no_guest_and_says_nothing() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        said = world.reports()
        world.stop.set()
        assert world.daemon is not None
        await world.daemon
        world.daemon = None
        await world.settle(30)
        assert world.reports() == said
        assert world.executing() == [("web", 1, 1)]

        world.start_daemon()
        registered = await world.hear(Registered, count=len(world.all(Registered)) + 1)
        assert registered.incarnation == 1
        assert [(d.epoch, d.running) for d in registered.inventory] == [(1, True)]
        await world.into_session(allowed={id_of("web"): 1})
        assert world.executing() == [("web", 1, 1)]
        assert world.reports() == said

    in_world(test)


def test_reports_wait_for_the_broker_and_arrive_in_order() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        world.broker.stop()
        world.hypervisor.end_guest(id_of("web"), "crash")
        await world.settle(40)
        assert world.all(Exited) == []
        assert len(world.journal.load().unsent) == 1
        world.broker = EmbeddedBroker(world.state)
        await world.hear(Exited)
        await world.until(lambda: world.journal.load().unsent == {})

    in_world(test)


def test_after_an_outage_the_node_asks_for_a_session_again() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        said = len(world.all(Registered))
        world.link.cut()
        await world.settle(40)
        world.link.heal()
        await world.hear(Registered, count=said + 1, within_s=60)
        applied = len(world.all(SessionApplied))
        await world.say(world.session())
        await world.hear(SessionApplied, count=applied + 1)

    in_world(test)


def test_a_full_disk_takes_no_command_and_loses_none() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        journal = world.journal
        journal.full = True  # type: ignore[attr-defined] # the in-memory journal's fault
        await world.say(world.start("web"))
        await world.settle(4)
        assert world.log == []
        journal.full = False  # type: ignore[attr-defined]
        await world.hear(Started)
        assert len(world.log) == 1

    in_world(test)


@pytest.mark.parametrize("seed", range(4))
def test_an_inventory_never_contradicts_what_was_reported_before_it(seed: int) -> None:
    async def test(world: World) -> None:
        await world.into_session()
        world.hypervisor.answer_delays_s["domains"] = 0.35  # reality goes on during a look at it
        for epoch in range(1, 9):
            await world.say(world.start("web", epoch=epoch))
            await world.hear(Started, count=epoch)
            await world.settle(epoch / 10)
            await world.say(world.stop_command("web", epoch=epoch, grace_s=0))
            await world.hear(Stopped, count=epoch)
        await world.settle(5)

        stopped, started, inventories = 0, 0, 0
        for message in world.heard:
            match message:
                case Stopped():
                    stopped = message.epoch
                case Started():
                    started = message.epoch
                case Inventory():
                    inventories += 1
                    assert all(seen.epoch > stopped for seen in message.domains)
                    assert all(seen.epoch != started for seen in message.exited)
                case _:
                    pass
        assert inventories > 20

    in_world(test, seed=seed, inventory_interval_s=0.1)
