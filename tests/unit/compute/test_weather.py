"""The daemon when its surroundings are slow, away or full: it waits and says nothing false."""

from __future__ import annotations

import pytest

from evac_common.bus.embedded import EmbeddedBroker
from evac_common.messages.reports import (
    Exited,
    Inventory,
    Registered,
    SessionApplied,
    Started,
    StartErrorKind,
    StartFailed,
    Stopped,
)
from evac_common.model.states import ExitReason
from evac_compute.adapters.memory_journal import MemoryJournal
from evac_compute.core.checks import Present
from evac_compute.core.record import Ran, RunState
from evac_compute.core.recovery import Abandoned, Appeared, Difference, difference
from tests.unit.compute.world import World, id_of, in_world


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


async def _built_too_late(world: World) -> None:
    """The start of `web` has failed, and now its domain is there."""
    await world.into_session()
    world.hypervisor.hang_starts()
    await world.say(world.start("web"))
    await world.hear(StartFailed, within_s=120)
    world.hypervisor.resume()
    await world.until(lambda: id_of("web") in world.hypervisor.core.guests)


def test_what_was_built_for_a_failed_start_and_never_ran_is_cleared_away() -> None:
    async def test(world: World) -> None:
        await _built_too_late(world)

        await world.until(lambda: world.hypervisor.core.guests == {})
        await world.until(lambda: not world.all(Inventory)[-1].domains)
        assert world.log == []
        assert world.journal.load().tombs == {}, "it releases nothing"

    in_world(test, start_time_limit_s=20)


def test_what_a_failed_start_left_is_ended_as_soon_as_it_can_be() -> None:
    async def test(world: World) -> None:
        await _built_too_late(world)
        world.hypervisor.hang_storage()  # nothing can be ended
        await world.settle(60)
        assert id_of("web") in world.hypervisor.core.guests
        await world.say(world.start("other"))
        world.hypervisor.heal_storage()

        await world.until(lambda: id_of("web") not in world.hypervisor.core.guests)
        await world.hear(Started)

    in_world(test, start_time_limit_s=20)


def test_a_guest_that_came_to_life_after_all_is_never_taken_for_a_failed_starts_rest() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        world.hypervisor.answer_delays_s["execute"] = 3600.0
        await world.say(world.start("web"))
        await world.until(lambda: world.executing() == [("web", 1, 1)])
        world.hypervisor.hang()  # nobody sees that it executes
        await world.hear(StartFailed, within_s=120)
        world.kill_daemon()
        world.link.cut()
        world.start_daemon()
        world.hypervisor.resume()
        await world.settle(30)  # seen, in no session
        world.hypervisor.core.guests[id_of("web")].paused = True  # by a person, or an I/O error
        world.link.heal()
        await world.into_session(allowed={id_of("web"): 1})
        await world.settle(30)

        assert id_of("web") in world.hypervisor.core.guests

    in_world(test, start_time_limit_s=20)


@pytest.mark.parametrize(
    ("state", "present", "expected"),
    [
        (RunState.ENDED, Present(epoch=4, run=2, running=False), Abandoned(epoch=4, run=2)),
        (RunState.ENDED, Present(epoch=4, run=2, running=True), Appeared(epoch=4, run=2)),
        # Unknown to the journal, or not yet over by it: not the daemon's to judge.
        (RunState.ENDED, Present(epoch=4, run=3, running=False), None),
        (RunState.ENDED, Present(epoch=4, run=1, running=False), None),  # it may have run
        (RunState.ENDED, Present(epoch=5, run=2, running=False), None),
        (RunState.BEGUN, Present(epoch=4, run=2, running=False), None),
        (RunState.STARTED, Present(epoch=4, run=2, running=False), None),
    ],
)
def test_only_a_stopped_domain_of_a_run_that_is_over_is_abandoned(
    state: RunState, present: Present, expected: Difference | None
) -> None:
    ran = Ran(epoch=4, run=2, state=state)
    assert difference(0, ran, present, None) == expected


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


def test_no_inventory_calls_an_epoch_released_before_its_tombstone_is_on_disk() -> None:
    async def test(world: World) -> None:
        journal = world.journal
        assert isinstance(journal, MemoryJournal)
        await world.into_session()
        world.hypervisor.start_delay_s = 2.0
        world.hypervisor.refuse_starts(StartErrorKind.CAPACITY, times=1)
        await world.say(world.start("web"))
        await world.settle(1)
        journal.full = True
        await world.settle(60)

        assert journal.load().tombs == {}
        assert [seen.released for seen in world.all(Inventory) if seen.released] == []

    in_world(test)
