"""For each mutant the first seed that finds it, on all cores; then the unchanged product."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final

from tests.mutants.hunting import Run, try_control, try_mutant
from tests.mutants.mutants import BY_NAME, Mutant

RUNS_PER_PROCESS: Final = 20  # then a fresh one: what a run leaves behind must not add up
COMPARED_S: Final = 300.0  # of virtual time at least; longer if the mutant was found later
ALONE_SEEDS: Final = 2  # on which a rule is tried that another one holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`what`: mutant, alone or control."""

    name: str
    seed: int
    what: str = "mutant"
    until_s: float | None = None


def carry_out(job: Job) -> Run:
    mutant = BY_NAME[job.name]
    match job.what:
        case "mutant":
            return try_mutant(mutant, job.seed)
        case "alone":
            return try_mutant(mutant, job.seed, alone=True, until_s=job.until_s)
        case "control":
            return try_control(mutant, job.seed, until_s=job.until_s)
    raise ValueError(f"no such job: {job.what}")


@dataclass(slots=True, kw_only=True)
class Search:
    """The seeds of one mutant, from 0 on."""

    mutant: Mutant
    limit: int
    next_seed: int = 0
    runs: dict[int, Run] = field(default_factory=dict)

    @property
    def hit(self) -> Run | None:
        """The lowest seed that found it, once every lower one is known not to."""
        for seed in range(self.limit):
            run = self.runs.get(seed)
            if run is None:
                return None
            if run.found is not None:
                return run
        return None

    @property
    def over(self) -> bool:
        return self.hit is not None or len(self.runs) == self.limit

    def take(self) -> int | None:
        """The next seed to try. None: none is left, or one that was tried has found it."""
        if self.next_seed >= self.limit or any(run.found for run in self.runs.values()):
            return None
        self.next_seed += 1
        return self.next_seed - 1

    def tried(self) -> Sequence[Run]:
        """Up to the one that found it."""
        last = self.hit.seed if self.hit is not None else self.limit
        return [run for seed, run in sorted(self.runs.items()) if seed <= last]


def in_processes(
    jobs: Callable[[], Job | None], on_run: Callable[[Job, Run], None], *, workers: int
) -> None:
    """Carry out what `jobs` gives until it gives None and nothing runs any more."""
    running: dict[Future[Run], Job] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, max_tasks_per_child=RUNS_PER_PROCESS
    ) as pool:
        try:
            while True:
                while len(running) < workers and (job := jobs()) is not None:
                    running[pool.submit(carry_out, job)] = job
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    on_run(running.pop(future), future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def search(
    mutants: Sequence[Mutant], *, limit: int, workers: int, on_run: Callable[[Job, Run], None]
) -> Sequence[Search]:
    """Every mutant from seed 0 on, until it is found or `limit` seeds did not find it."""
    searches = {each.name: Search(mutant=each, limit=limit) for each in mutants}

    def following() -> Job | None:
        for each in sorted(searches.values(), key=lambda one: one.next_seed):
            if not each.over and (seed := each.take()) is not None:
                return Job(name=each.mutant.name, seed=seed)
        return None

    def learn(job: Job, run: Run) -> None:
        searches[job.name].runs[job.seed] = run
        on_run(job, run)

    in_processes(following, learn, workers=workers)
    return list(searches.values())


def compare(
    searches: Sequence[Search], *, workers: int, on_run: Callable[[Job, Run], None]
) -> dict[Job, Run]:
    """The unchanged product, and rules that are removed alone, on the seeds that matter."""
    found: dict[Job, Run] = {}
    left = _comparisons(searches)

    def learn(job: Job, run: Run) -> None:
        found[job] = run
        on_run(job, run)

    in_processes(lambda: next(left, None), learn, workers=workers)
    return found


def _comparisons(searches: Sequence[Search]) -> Iterator[Job]:
    for each in searches:
        name, hit = each.mutant.name, each.hit
        if hit is None:
            continue
        until_s = max(hit.virtual_s, COMPARED_S)
        yield Job(name=name, seed=hit.seed, what="control", until_s=until_s)
        if each.mutant.defences:
            seeds = dict.fromkeys((hit.seed, *range(ALONE_SEEDS - 1)))
            yield from (Job(name=name, seed=seed, what="alone", until_s=until_s) for seed in seeds)
