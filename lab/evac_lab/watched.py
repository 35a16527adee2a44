"""Run a scenario on a simulated cluster with the oracle watching: what every scenario is held to.

The expectations of a file are its author's; the oracle's invariants hold in every file, at every
step, whether the author thought of them or not.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from evac_lab.narrate import Line
from evac_lab.oracle import Oracle, Timings, Violation
from evac_lab.runner import Outcome
from evac_lab.scenario.reading import Scenario
from evac_lab.simulated.clock import START
from evac_lab.simulated.cluster import DATABASE_FILE, SimulatedCluster
from evac_lab.simulated.loop import SeededLoop
from evac_lab.simulated.run import Doubles, simulate
from evac_lab.view import Picture


def simulate_watched(
    scenario: Scenario,
    *,
    seed: int,
    on_line: Callable[[Line], None],
    on_picture: Callable[[Picture], None] | None,
    progress: Callable[[str], None] = lambda _text: None,
) -> Outcome:
    """As `simulate`; every invariant that does not hold is one of the outcome's failures.

    Raises LabFailed when the cluster does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="evac-watched-") as place:
        directory = Path(place)
        document = scenario.document
        oracle = Oracle(
            directory / DATABASE_FILE, timings=Timings.of(document.profile, document.settings)
        )

        async def finish(_cluster: SimulatedCluster) -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, SeededLoop), "a simulation runs on a seeded loop"
            # Whether everything is as wanted then, the file says: it may end in the middle.
            oracle.finish(loop.true_time, calm=False)

        try:
            outcome = simulate(
                scenario,
                seed=seed,
                on_line=on_line,
                on_picture=on_picture,
                progress=progress,
                doubles=Doubles(),
                witness=oracle,
                epilogue=finish,
                directory=directory,
            )
        finally:
            oracle.close()
        return _with(outcome, oracle.violations)


def _with(outcome: Outcome, violations: Sequence[Violation]) -> Outcome:
    """The oracle counts from the simulation's start, a reader from second 0 of the time line."""
    ahead_s = (outcome.zero - START).total_seconds()
    said = [f"{v.invariant} at {v.at_s - ahead_s:.1f} s: {v.sentence}" for v in violations]
    return replace(outcome, failed=[*outcome.failed, *said])
