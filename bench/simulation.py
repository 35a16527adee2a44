"""How much virtual time the simulator lives through in a second of one processor."""

from __future__ import annotations

import time
from statistics import median

from evac_lab.demo import scenario
from evac_lab.hunt.live import Lived, live
from evac_lab.hunt.plan import Size, plan
from evac_lab.hunt.run import quiet
from evac_lab.hunt.written import scenario_of
from evac_lab.scenario.reading import Scenario

SEEDS = range(1, 4)
HOURS = 0.25
# 200 cluster-hours in ten minutes on two processors.
GOAL = 600.0


def _speed(file: Scenario, seed: int) -> tuple[float, Lived]:
    """Virtual seconds per second of this process's own time, the oracle's share included."""
    began_s = time.process_time()
    lived = live(file, seed=seed)
    return lived.lasted_s / (time.process_time() - began_s), lived


def _show(title: str, speeds: list[float], steps: float) -> None:
    print(
        f"  {title:<44} {median(speeds):6.0f} virtual seconds per second "
        f"({min(speeds):.0f} to {max(speeds):.0f}), {steps:.0f} steps for each"
    )


def run() -> None:
    quiet()
    print(f"\nsimulate, with the oracle watching (goal: {GOAL:.0f})")
    calm = scenario_of({**plan(1, Size(hours=HOURS)), "timeline": [f"at {3600 * HOURS:g} end"]})
    planned = {seed: scenario_of(plan(seed, Size(hours=HOURS))) for seed in SEEDS}
    for title, files in (
        ("the demo (4 nodes, 15 instances)", {seed: scenario() for seed in SEEDS}),
        ("nothing happens (10 nodes, 50 instances)", {1: calm}),
        ("a hunt (10 nodes, 50 instances)", planned),
    ):
        speeds, steps = [], 0.0
        for seed, file in files.items():
            speed, lived = _speed(file, seed)
            speeds.append(speed)
            steps += lived.steps / max(1.0, lived.lasted_s) / len(files)
        _show(title, speeds, steps)
