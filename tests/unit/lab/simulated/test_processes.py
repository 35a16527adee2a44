"""Processes of the simulation: hung, slow or fast of clock, stopped, killed, supervised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

from evac_lab.simulated.clock import VirtualClock, Walls
from evac_lab.simulated.loop import SeededLoop, run
from evac_lab.simulated.process import RESTART_AFTER_S, STOP_LIMIT_S, Life, SimulatedProcess

ME = ("victim", 1)


async def _tick(traces: list[float], loop: SeededLoop, every_s: float = 1.0) -> None:
    while True:
        await asyncio.sleep(every_s)
        traces.append(loop.true_time)


def test_a_hung_process_does_nothing_and_its_timers_are_late() -> None:
    async def main(loop: SeededLoop) -> list[float]:
        traces: list[float] = []
        loop.spawn(ME, _tick(traces, loop), name="victim")
        await asyncio.sleep(2.5)
        loop.suspend(ME)
        await asyncio.sleep(100)
        assert traces == [1.0, 2.0]
        loop.resume(ME)
        await asyncio.sleep(1.2)
        return traces

    # The timer of second 3 fires at the resume; the next pause is counted from there.
    assert run(1, main) == [1.0, 2.0, 102.5, 103.5]


def test_what_is_sent_to_a_hung_process_waits_for_it() -> None:
    async def main(loop: SeededLoop) -> list[str]:
        got: list[str] = []
        queue: asyncio.Queue[str] = asyncio.Queue()

        async def victim() -> None:
            while True:
                got.append(await queue.get())

        loop.spawn(ME, victim(), name="victim")
        await asyncio.sleep(1)
        loop.suspend(ME)
        queue.put_nowait("1")
        await asyncio.sleep(10)
        assert got == []
        loop.resume(ME)
        await asyncio.sleep(1)
        return got

    assert run(1, main) == ["1"]


def test_a_hung_process_that_is_killed_runs_no_more() -> None:
    async def main(loop: SeededLoop) -> list[float]:
        traces: list[float] = []
        loop.spawn(ME, _tick(traces, loop), name="victim")
        await asyncio.sleep(1.5)
        loop.suspend(ME)
        await asyncio.sleep(10)
        loop.crash(ME)
        loop.resume(ME)
        await asyncio.sleep(10)
        return traces

    assert run(1, main) == [1.0]


def test_a_fast_clock_shows_more_and_its_timers_come_early() -> None:
    async def main(loop: SeededLoop) -> None:
        traces: list[float] = []
        shown: list[float] = []

        async def victim() -> None:
            began_s = loop.time()
            await _wait(100.0)
            shown.append(loop.time() - began_s)
            traces.append(loop.true_time)
            async with asyncio.timeout(101.0):
                await _wait(100.0)
            traces.append(loop.true_time)

        async def _wait(seconds: float) -> None:
            await asyncio.sleep(seconds)

        await asyncio.sleep(50)
        loop.set_rate("victim", 1.25)
        assert loop.time_of(ME) == 50.0
        loop.spawn(ME, victim(), name="victim")
        await asyncio.sleep(200)
        assert shown == [100.0]
        assert traces == [130.0, 210.0]
        assert loop.time() == 250.0

    run(1, main)


def test_a_wall_clock_jumps_and_the_monotonic_clock_does_not() -> None:
    async def main(loop: SeededLoop) -> None:
        walls = Walls()
        clock = VirtualClock(loop, seed=1, process="monitor-1", walls=walls)
        store = VirtualClock(loop, seed=1, process="monitor-1/store", walls=walls)
        other = VirtualClock(loop, seed=1, process="monitor-2", walls=walls)
        before, monotonic_s = clock.now(), clock.monotonic()
        walls.jump("monitor-1", -3600)
        assert clock.now() - before == timedelta(hours=-1)
        assert store.now() == clock.now()
        assert other.now() == before
        assert clock.monotonic() == monotonic_s

    run(1, main)


def test_hooks_run_after_each_step_and_may_end_the_run() -> None:
    class Broken(Exception):
        pass

    async def main(loop: SeededLoop) -> None:
        def look() -> None:
            if loop.true_time >= 5:
                raise Broken

        loop.after_step.append(look)
        while True:
            await asyncio.sleep(1)

    try:
        run(1, main)
    except Broken:
        return
    raise AssertionError("the hook's error must end the run")


@dataclass(slots=True)
class _Kernel:
    loop: SeededLoop
    said: list[tuple[float, str]] = field(default_factory=list)
    buried: int = 0

    def bury(self, name: str) -> None:
        self.buried += 1

    def froze(self, name: str) -> None:
        pass

    def thawed(self, name: str) -> None:
        pass

    def told(self, name: str, what: str) -> None:
        self.said.append((self.loop.true_time, what))


def _supervised(
    body: Callable[[Life], Awaitable[object]],
    story: Callable[[SimulatedProcess], Awaitable[object]],
) -> _Kernel:
    async def main(loop: SeededLoop) -> _Kernel:
        kernel = _Kernel(loop)
        process = SimulatedProcess(loop, "victim", body, kernel=kernel)
        process.start()
        await asyncio.sleep(1)
        await story(process)
        return kernel

    return run(1, main)


async def _obeys(life: Life) -> None:
    await life.stop.wait()


async def _deaf(life: Life) -> None:
    await asyncio.Event().wait()


def test_a_killed_service_is_started_again_and_a_stopped_one_is_not() -> None:
    async def story(process: SimulatedProcess) -> None:
        process.kill()
        await asyncio.sleep(10)
        process.stop()
        await asyncio.sleep(100)
        assert not process.running
        process.start()
        await asyncio.sleep(1)
        assert process.running

    kernel = _supervised(_obeys, story)

    assert kernel.said == [
        (0.0, "started"),
        (1.0, "killed"),
        (1.0 + RESTART_AFTER_S, "started"),
        (11.0, "stopped"),
        (111.0, "started"),
    ]
    assert kernel.buried == 2


def test_a_service_that_does_not_stop_is_killed() -> None:
    async def story(process: SimulatedProcess) -> None:
        process.hang()  # nothing hears SIGTERM
        process.stop()
        await asyncio.sleep(STOP_LIMIT_S + 1)
        assert not process.running
        assert process.faults == []

    kernel = _supervised(_deaf, story)

    assert kernel.said[-1] == (1.0 + STOP_LIMIT_S, "killed")


def test_a_service_that_ends_by_itself_is_remembered_as_a_fault() -> None:
    async def fails(life: Life) -> None:
        await asyncio.sleep(2)
        raise OSError("no such thing")

    async def story(process: SimulatedProcess) -> None:
        await asyncio.sleep(3)
        assert process.faults == ["victim: OSError('no such thing')"]

    assert _supervised(fails, story).said == [(0.0, "started"), (2.0, "failed")]
