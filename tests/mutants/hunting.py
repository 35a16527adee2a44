"""One seed against one mutant: a simulated cluster with the oracle beside it, until it speaks."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from evac_lab.hunt.honest import well_since_s
from evac_lab.hunt.live import CALM_S
from evac_lab.hunt.run import quiet
from evac_lab.oracle.oracle import Oracle
from evac_lab.oracle.ports import Violation
from evac_lab.oracle.timings import Timings
from evac_lab.runner import LabFailed, Runner
from evac_lab.scenario.reading import Scenario
from evac_lab.simulated.cluster import DATABASE_FILE, Doubles, SimulatedCluster
from evac_lab.simulated.loop import SeededLoop, run
from tests.mutants.mutants import Mutant
from tests.mutants.patching import Patching
from tests.mutants.seeds import FOCI

EVERYTHING: Final = frozenset(
    (*(f"S{number}" for number in range(1, 14)), *(f"L{number}" for number in range(1, 7)))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one seed showed. `found`: the violation that was looked for, which ended the run."""

    seed: int
    found: Violation | None
    others: tuple[Violation, ...]  # before it
    bites: Mapping[str, int]
    virtual_s: float
    cpu_s: float
    failed: str = ""  # the run could not be carried out


def try_mutant(
    mutant: Mutant, seed: int, *, alone: bool = False, until_s: float | None = None
) -> Run:
    """Run this seed of the mutant's focus until one of its invariants is broken, or to the end."""
    with mutant.applied(alone=alone) as patching:
        return watch(
            _scenario(mutant, seed),
            seed,
            stop_at=mutant.breaks,
            patching=patching,
            until_s=until_s,
        )


def try_control(mutant: Mutant, seed: int, *, until_s: float | None = None) -> Run:
    """The same seed with nothing removed. `until_s`: no longer than this, in virtual seconds."""
    scenario = _scenario(mutant, seed)
    return watch(scenario, seed, stop_at=EVERYTHING, patching=Patching(), until_s=until_s)


def _scenario(mutant: Mutant, seed: int) -> Scenario:
    return FOCI[mutant.focus].scenario(seed)


@dataclass(slots=True, kw_only=True)
class _Watch:
    """Looks at what the oracle has said after each step, and ends the run when that is enough."""

    oracle: Oracle
    stop_at: Collection[str]
    patching: Patching
    until_s: float | None
    control: bool
    at_s: float = 0.0
    found: Violation | None = None
    _looked_at: int = 0
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    def look(self, at_s: float) -> None:
        self.at_s = at_s
        said = self.oracle.violations
        while self.found is None and self._looked_at < len(said):
            violation = said[self._looked_at]
            self._looked_at += 1
            # What is broken before the mutant made a difference is not its doing.
            if violation.invariant in self.stop_at and (self.control or self.patching.bites):
                self.found = violation
        if self.found is not None or (self.until_s is not None and at_s > self.until_s):
            self._over.set()

    async def until_over(self, work: Coroutine[Any, Any, object]) -> bool:
        """Do the work, no longer than needed. True: it was done."""
        working, over = asyncio.create_task(work), asyncio.create_task(self._over.wait())
        await asyncio.wait({working, over}, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if not self._over.is_set():
            await working
            return True
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return False


def watch(
    scenario: Scenario,
    seed: int,
    *,
    stop_at: Collection[str],
    patching: Patching,
    until_s: float | None = None,
) -> Run:
    """Live through a scenario; ends with the first violation of one of `stop_at`."""
    quiet()
    began_s, failed = time.process_time(), ""
    with tempfile.TemporaryDirectory(prefix="evac-mutant-") as directory:
        folder, document = Path(directory), scenario.document
        oracle = Oracle(
            folder / DATABASE_FILE, timings=Timings.of(document.profile, document.settings)
        )
        seen = _Watch(
            oracle=oracle,
            stop_at=stop_at,
            patching=patching,
            until_s=until_s,
            control=not patching.changes,
        )
        try:
            with _hushed():
                run(seed, lambda loop: _live(loop, scenario, seed, folder, seen))
            seen.look(seen.at_s)
        except LabFailed as error:
            failed = error.message
        return Run(
            seed=seed,
            found=seen.found,
            others=tuple(each for each in oracle.violations if each is not seen.found),
            bites=dict(patching.bites),
            virtual_s=seen.at_s,
            cpu_s=time.process_time() - began_s,
            failed=failed,
        )


@contextmanager
def _hushed() -> Iterator[None]:
    """The dead leave coroutines in the middle of a transaction; that they cannot end it is right.

    A mutant holds transactions open where the product never does, so there are more of them.
    """
    hook, muted = sys.unraisablehook, logging.root.manager.disable
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        logging.disable(logging.CRITICAL)
        gc.collect()
        logging.disable(muted)
        sys.unraisablehook = hook


async def _live(
    loop: SeededLoop, scenario: Scenario, seed: int, folder: Path, seen: _Watch
) -> None:
    well_s = well_since_s(scenario.steps)
    calm = well_s is not None and scenario.end_s - well_s >= CALM_S
    cluster = SimulatedCluster(
        loop, scenario, seed=seed, directory=folder, doubles=Doubles(), witness=seen.oracle
    )
    loop.after_step.append(lambda: seen.look(loop.true_time))
    try:
        await cluster.start()
        runner = Runner(
            cluster=cluster,
            scenario=scenario,
            on_line=lambda _line: None,
            on_picture=None,
            progress=lambda _text: None,
        )
        if await seen.until_over(runner.run()):
            seen.oracle.finish(loop.true_time, calm=calm)
    finally:
        cluster.switch_off()
