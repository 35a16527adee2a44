"""Run a scenario on a simulated cluster, from a plain function."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from evac_lab.narrate import Line
from evac_lab.oracle.ports import Witness
from evac_lab.runner import Outcome, Runner
from evac_lab.scenario.reading import Scenario
from evac_lab.simulated.cluster import Doubles, SimulatedCluster
from evac_lab.simulated.loop import SeededLoop, run
from evac_lab.view import Picture

__all__ = ["Doubles", "simulate"]

Epilogue = Callable[[SimulatedCluster], Awaitable[object]]

POLL_S: Final = 0.5
UNSEEN_POLL_S: Final = 5.0
STEPS_MAX: Final = 50_000_000


def simulate(
    scenario: Scenario,
    *,
    seed: int,
    on_line: Callable[[Line], None],
    on_picture: Callable[[Picture], None] | None,
    progress: Callable[[str], None],
    calm_pace: float | None = None,
    eventful_pace: float | None = None,
    doubles: Doubles,
    witness: Witness | None = None,
    epilogue: Epilogue | None = None,
    directory: Path | None = None,
    steps_max: int = STEPS_MAX,
) -> Outcome:
    """Run to the end of the time line and judge.

    `calm_pace` and `eventful_pace` are virtual seconds per real second before and after the first
    thing that happens; None: as fast as the machine can. `witness` is told what the simulated
    hardware does; `epilogue` may ask the living cluster something at the end. The database is
    DATABASE_FILE in `directory`, or in one that is removed afterwards. Raises LabFailed when the
    cluster does not come up, LoopStuck after `steps_max` steps of the loop.
    """

    async def main(loop: SeededLoop) -> Outcome:
        cluster = SimulatedCluster(
            loop,
            scenario,
            seed=seed,
            directory=place,
            doubles=doubles,
            witness=witness,
        )
        runner = Runner(
            cluster=cluster,
            scenario=scenario,
            on_line=on_line,
            on_picture=on_picture,
            progress=progress,
            # Events are told at their own moments however late they are read; only an eye needs
            # them soon.
            poll_s=POLL_S if on_picture or calm_pace else UNSEEN_POLL_S,
            at_action=lambda _text: loop.hurry(eventful_pace),
        )
        try:
            return await _live(cluster, runner, epilogue)
        finally:
            cluster.switch_off()

    with contextlib.ExitStack() as stack:
        if directory is None:
            own = tempfile.TemporaryDirectory(prefix="evac-simulated-")
            directory = Path(stack.enter_context(own))
        place = directory
        return run(seed, main, pace=calm_pace, steps_max=steps_max)


async def _live(cluster: SimulatedCluster, runner: Runner, epilogue: Epilogue | None) -> Outcome:
    await cluster.start()
    outcome = await runner.run()
    if epilogue is not None:
        await epilogue(cluster)
    return outcome.with_faults(cluster.faults)
