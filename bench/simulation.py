"""How much virtual time the simulator lives through in a second."""

from __future__ import annotations

import logging
import time
from statistics import median

import structlog

from evac_lab.demo import scenario
from evac_lab.simulated.run import Doubles, simulate


def run() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    file = scenario()
    speeds = []
    for seed in range(3):
        began_s = time.perf_counter()
        outcome = simulate(
            file,
            seed=seed,
            on_line=lambda _line: None,
            on_picture=None,
            progress=lambda _text: None,
            doubles=Doubles(),
        )
        speeds.append(outcome.end_s / (time.perf_counter() - began_s))
    print(
        f"\nsimulate the demo: {median(speeds):.0f} virtual seconds per second "
        f"({min(speeds):.0f} to {max(speeds):.0f})"
    )
