"""The daemon is killed between any two awaits; the next one goes on from journal and hypervisor.

The controllers then do what their reconcilers do: answer the registration, and send again what was
not answered. Whatever the moment, every instance executes once, and the reports say what is true.
"""

from __future__ import annotations

import pytest

from evac_common.messages.commands import Command, Start
from evac_common.messages.reports import (
    Exited,
    Report,
    SessionApplied,
    Started,
    StartFailed,
    StartRefused,
    Stopped,
)
from evac_compute.core.record import RunState
from tests.unit.compute.world import World, id_of, in_world

WEB = id_of("web")


async def _killed_at(world: World, command: Command, offset: int) -> bool:
    """Send the command and kill the daemon `offset` steps later. False: it was done before that."""
    answers: dict[str, type[Report]] = {
        "start": Started,
        "stop": Stopped,
        "session": SessionApplied,
    }
    done = answers[command.name]
    before = len(world.all(done))
    killed: list[int] = []

    def kill() -> None:
        killed.append(world.loop.steps)
        world.kill_daemon()

    world.loop.kill = kill
    world.loop.kill_at = world.loop.steps + offset
    await world.say(command)
    await world.until(lambda: bool(killed) or world.clock.monotonic() > 300, within_s=400)
    assert killed
    return len(world.all(done)) == before or world.journal.load().unsent != {}


async def _bring_up(world: World, start: Start) -> None:
    """What the scheduler does until the instance runs."""
    run = start.run
    for _ in range(20):
        await world.settle(2)
        failed = [report.run for report in world.all(StartFailed)]
        spent = [*failed, *(report.run for report in world.all(Exited))]
        if run not in spent and any(started.run == run for started in world.all(Started)):
            return
        if run in spent:
            run += 1
            start = world.start("web", run=run)
        await world.say(start)
    raise AssertionError("the instance was never reported running")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_killed_anywhere_in_a_start_the_instance_runs_once(part: int) -> None:
    reached_the_end = 0
    for offset in range(part, 120, 4):

        async def test(world: World, offset: int = offset) -> bool:
            await world.into_session()
            start = world.start("web")
            interrupted = await _killed_at(world, start, offset)
            world.start_daemon()
            await world.into_session(allowed={WEB: 1})
            await _bring_up(world, start)
            await world.settle(30)

            world.never_twice()
            executing = world.executing()
            assert len(executing) == 1
            assert executing[0][:2] == ("web", 1)
            assert all(entry.ended_at is None for entry in world.log), "nothing ended it"
            assert not world.all(Exited)
            assert not world.all(StartRefused)
            journal = world.journal.load()
            assert (journal.pending, journal.unsent, journal.tombs) == ({}, {}, {})
            assert journal.runs[WEB].state is RunState.STARTED
            return interrupted

        reached_the_end += not in_world(test, seed=offset)
    assert reached_the_end, "the sweep must reach beyond the end of the start"


@pytest.mark.slow
def test_a_run_whose_guest_ended_while_no_daemon_was_there_is_not_executed_again() -> None:
    ended_unseen = 0
    for offset in range(90):

        async def test(world: World, offset: int = offset) -> bool:
            await world.into_session()
            start = world.start("web")
            await _killed_at(world, start, offset)
            await world.settle(2)
            executed = world.executing()
            if executed:
                world.hypervisor.end_guest(WEB, "poweroff")
            state = world.journal.load().runs.get(WEB)
            world.start_daemon()
            await world.into_session(allowed={WEB: 1})
            await _bring_up(world, start)
            await world.settle(10)
            world.never_twice()
            assert len(world.executing()) == 1
            return bool(executed) and state is not None and state.state is RunState.BEGUN

        ended_unseen += in_world(test, seed=offset)
    assert ended_unseen, "the sweep must hit the moment between the deed and the journal"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_killed_anywhere_in_a_stop_it_is_stopped_and_said_so(part: int) -> None:
    for offset in range(part, 120, 2):

        async def test(world: World, offset: int = offset) -> None:
            await world.into_session()
            await world.say(world.start("web"))
            await world.hear(Started)
            stop = world.stop_command("web", grace_s=2)
            await _killed_at(world, stop, offset)
            promised = world.journal.load().tomb(WEB) == 1
            world.start_daemon()
            if promised:  # kept without any session
                await world.hear(Stopped)
                assert world.executing() == []
            await world.into_session(allowed={} if promised else {WEB: 1})
            await world.say(stop)
            await world.hear(Stopped, count=1)
            await world.settle(10)

            assert world.executing() == []
            assert len(world.log) == 1
            assert world.journal.load().tomb(WEB) == 1
            assert "exited" not in world.reports()
            assert world.journal.load().pending == {}

        in_world(test, seed=offset)


@pytest.mark.slow
def test_killed_anywhere_in_a_session_what_is_superseded_ends_and_what_is_allowed_stays() -> None:
    for offset in range(0, 90, 2):

        async def test(world: World, offset: int = offset) -> None:
            await world.into_session()
            for name in ("keep", "lose", "unknown"):
                await world.say(world.start(name, epoch=2))
            await world.hear(Started, count=3)
            contract = {
                "allowed": {id_of("keep"): 2},
                "superseded": {id_of("lose"): 2},
            }
            await _killed_at(world, world.session(**contract), offset)
            world.start_daemon()
            # The first session may come again from the queue, before the node has asked.
            await world.settle(10)
            await world.say(world.session(**contract))
            await world.settle(10)
            assert world.executing() == [("keep", 2, 1), ("unknown", 2, 1)]
            assert world.all(SessionApplied)[-1].quarantined == [id_of("unknown")]
            assert world.journal.load().tombs == {id_of("lose"): 2}

        in_world(test, seed=offset)


def test_a_start_journalled_before_the_crash_waits_for_the_session_and_obeys_it() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        world.hypervisor.start_delay_s = 5
        await world.say(world.start("web"))
        await world.until(lambda: bool(world.journal.load().runs))
        world.kill_daemon()
        await world.settle(20)
        assert world.log == [], "built, but nobody let it execute"

        world.start_daemon()
        await world.settle(10)
        assert world.log == [], "no session, no start"

        await world.into_session(proven_dead=True)
        await world.settle(10)
        assert world.log == []
        assert world.reports() == ["command_refused"]

    in_world(test)


def test_a_reboot_is_a_new_incarnation_and_the_old_commands_mean_nothing() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        old = world.start("web")
        await world.say(old)
        await world.hear(Started)
        world.reboot()
        world.start_daemon()
        await world.into_session()
        assert world.incarnation == 2
        await world.say(old)
        await world.settle()
        assert world.reports() == ["started", "command_refused"]
        assert world.executing() == []
        assert world.log[0].why == "power cut"
        assert world.journal.load().runs == {}

    in_world(test)
