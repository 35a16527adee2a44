"""Run a scenario on a cluster of real processes, from a plain function."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from evac_lab.narrate import Line
from evac_lab.real.process_cluster import ProcessCluster
from evac_lab.runner import Outcome, Runner
from evac_lab.scenario.reading import Scenario
from evac_lab.view import Picture


def run_on_processes(
    scenario: Scenario,
    *,
    on_line: Callable[[Line], None],
    on_picture: Callable[[Picture], None] | None,
    progress: Callable[[str], None],
    directory: Path | None = None,
) -> Outcome:
    """Run to the end of the time line and judge; everything is ended afterwards.

    `directory` (empty or not there) keeps every log. Raises LabFailed when the cluster does not
    come up, and CannotRunHere.
    """

    async def live() -> Outcome:
        progress("starting broker, database and services")
        async with ProcessCluster.running(scenario, directory=directory) as cluster:
            runner = Runner(
                cluster=cluster,
                scenario=scenario,
                on_line=on_line,
                on_picture=on_picture,
                progress=progress,
            )
            return await runner.run()

    return asyncio.run(live())
