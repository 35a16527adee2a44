"""The seeded loop: same seed, same run; a crash runs no clean-up; waiting costs nothing."""

from __future__ import annotations

import asyncio
import time

import pytest

from evac_lab.simulated.loop import LoopStuck, SeededLoop, run


async def _race(loop: SeededLoop) -> tuple[str, ...]:
    order: list[str] = []

    async def runner(name: str) -> None:
        await asyncio.sleep(10)
        await asyncio.sleep(0)
        order.append(name)

    async with asyncio.TaskGroup() as group:
        for name in "abcd":
            group.create_task(runner(name))
    return (*order, loop.digest())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_other_seeds_other_runs() -> None:
    assert run(7, _race) == run(7, _race)
    assert len({run(seed, _race)[:4] for seed in range(50)}) > 5


def test_an_hour_of_virtual_time_takes_no_time() -> None:
    async def sleeper(loop: SeededLoop) -> float:
        await asyncio.sleep(3600)
        return loop.time()

    began = time.monotonic()
    assert run(1, sleeper) == 3600
    assert time.monotonic() - began < 60


def test_a_crashed_process_runs_no_clean_up_and_nothing_it_started_goes_on() -> None:
    traces: list[str] = []

    async def victim() -> None:
        async def child() -> None:
            while True:
                await asyncio.sleep(1)
                traces.append("child")

        task = asyncio.create_task(child())
        try:
            await task
        finally:
            traces.append("cleaned up")

    async def main(loop: SeededLoop) -> list[str]:
        loop.spawn(("victim", 1), victim(), name="victim")
        await asyncio.sleep(2.5)
        loop.crash(("victim", 1))
        await asyncio.sleep(100)
        return list(traces)

    assert run(1, main) == ["child", "child"]


def test_a_run_that_can_never_go_on_says_so() -> None:
    async def stuck(loop: SeededLoop) -> None:
        await loop.create_future()

    with pytest.raises(LoopStuck, match="no timer"):
        run(1, stuck)


def test_threads_are_refused() -> None:
    async def main(loop: SeededLoop) -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="threads are not simulated"):
        run(1, main)
