"""Many seeds, one worker process a core."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Final

import structlog

from evac_lab.hunt.live import CRASH, Failure, Lived, live
from evac_lab.hunt.plan import Mix, Size, plan
from evac_lab.hunt.totals import Ran, Totals
from evac_lab.hunt.written import scenario_of

RUNS_PER_PROCESS: Final = 25  # then a fresh one: what a run leaves behind must not add up


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One seed to live through."""

    seed: int
    size: Size
    mix: Mix | None = None  # None: the seed draws it


def run_one(job: Job, *, with_lines: bool = False) -> Ran:
    """Plan it and live through it, in this process. Its log only when asked for: it is long."""
    began_s = time.monotonic()
    lived = live(scenario_of(plan(job.seed, job.size, job.mix)), seed=job.seed)
    if not with_lines:
        lived = replace(lived, lines=())
    return Ran(seed=job.seed, lived=lived, took_s=time.monotonic() - began_s)


def quiet() -> None:
    """The services' logs are nobody's business here, and would cost half of the time.

    Nor is what the libraries say of connections and coroutines of processes that were killed: a
    run counts what the services did, not how Python takes its leave of them.
    """
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _unraisable: None
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        cache_logger_on_first_use=True,
    )


def hunt(
    jobs: Sequence[Job],
    *,
    workers: int,
    on_ran: Callable[[Ran, Totals], None],
    until_s: float | None = None,
) -> Totals:
    """Run the jobs in `workers` processes; after `until_s` (monotonic) none is begun any more."""
    totals = Totals()
    for ran in _ran(jobs, workers, until_s):
        totals.add(ran)
        on_ran(ran, totals)
    return totals


def cores() -> int:
    """How many processes can really run at once."""
    return len(os.sched_getaffinity(0))


def _ran(jobs: Sequence[Job], workers: int, until_s: float | None) -> Iterator[Ran]:
    left = iter(jobs)
    running: dict[Future[Ran], Job] = {}
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=quiet,
        max_tasks_per_child=RUNS_PER_PROCESS,
    ) as pool:
        try:
            while True:
                while len(running) < workers and (job := _next(left, until_s)) is not None:
                    running[pool.submit(run_one, job)] = job
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield _result(running.pop(future), future)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _next(left: Iterator[Job], until_s: float | None) -> Job | None:
    if until_s is not None and time.monotonic() > until_s:
        return None
    return next(left, None)


def _result(job: Job, future: Future[Ran]) -> Ran:
    try:
        return future.result()
    except BrokenProcessPool as error:
        failure = Failure(kind=CRASH, at_s=0.0, sentence=f"the worker process died: {error}")
        return Ran(seed=job.seed, lived=Lived(failures=(failure,)), took_s=0.0)
