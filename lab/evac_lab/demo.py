"""`make demo`: a cluster appears, a node is cut off, its instances come back; all in one process.

The services are the real ones, on the embedded bus, with the default timings on virtual time. The
clock runs fast while nothing happens and slowly enough to watch while something does.
"""

from __future__ import annotations

import io
from importlib import resources

from rich.console import Console

from evac_common.cli.output import Output
from evac_lab.report import print_outcome
from evac_lab.scenario.reading import Scenario, from_text
from evac_lab.simulated.cluster import SimulatedCluster
from evac_lab.simulated.run import Doubles, simulate
from evac_lab.view import View

CALM_PACE = 16.0  # virtual seconds per real second
EVENTFUL_PACE = 3.5
EXPLAINED = "db-1"


def scenario() -> Scenario:
    """The scenario that ships with the lab."""
    text = resources.files("evac_lab.scenarios").joinpath("demo.yaml").read_text(encoding="utf-8")
    return from_text(text, "demo.yaml")


def demo(
    console: Console, *, seed: int = 1, paced: bool = True, doubles: Doubles | None = None
) -> int:
    """Show the demo; 0 if everything came back and nothing ran twice, else 1."""
    file = scenario()
    said = io.StringIO()

    async def explain(cluster: SimulatedCluster) -> None:
        page = Console(file=said, width=console.width, highlight=False, soft_wrap=True)
        await cluster.evac(["instance", "explain", EXPLAINED], Output(page, page))

    console.print(
        "evac: four services on an embedded bus and virtual time. A node loses its network; "
        "its guests run on until its BMC cuts the power; only then are they started elsewhere.\n",
        highlight=False,
    )
    with View(console) as view:
        outcome = simulate(
            file,
            seed=seed,
            on_line=view.line,
            on_picture=view.pictures,
            progress=lambda text: console.print(f"         lab        {text}", highlight=False),
            calm_pace=CALM_PACE if paced else None,
            eventful_pace=EVENTFUL_PACE if paced else None,
            doubles=doubles or Doubles(),
            epilogue=explain,
        )
    console.print(f"\n$ evac instance explain {EXPLAINED}", style="bold", highlight=False)
    console.print(said.getvalue().rstrip() + "\n", highlight=False, markup=False, soft_wrap=True)
    print_outcome(console, outcome)
    return 0 if outcome.passed else 1
