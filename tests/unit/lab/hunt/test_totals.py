"""Counts are merged over runs, and a target that is missed is named."""

from __future__ import annotations

from evac_lab.hunt.live import Failure, Lived
from evac_lab.hunt.totals import CELLS, NOISE, Ran, Targets, Totals, missed

ALL = {(component, kind): 20 for component, kinds in CELLS.items() for kind in kinds}


def _totals(*lived: Lived) -> Totals:
    totals = Totals()
    for seed, each in enumerate(lived):
        totals.add(Ran(seed=seed, lived=each, took_s=1.0))
    return totals


def test_runs_add_up() -> None:
    failure = Failure(kind="S1", at_s=3.0, sentence="twice")
    first = Lived(
        failures=(),
        lasted_s=3600,
        faults={("M", "kill"): 2},
        evacuations=3,
        restart_times_s=(30.0,),
    )
    second = Lived(
        failures=(failure,),
        lasted_s=1800,
        faults={("M", "kill"): 1, ("B", "lose"): 50},
        evacuations=1,
        restart_times_s=(40.0, 50.0),
    )

    totals = _totals(first, second)

    assert totals.cluster_hours == 1.5
    assert totals.faults == {("M", "kill"): 3, ("B", "lose"): 50}
    assert (totals.noise, totals.evacuations) == (50, 4)
    assert totals.recovery == (40.0, 50.0)
    assert totals.failing_seeds() == [1]


def test_a_hunt_that_reaches_every_target_misses_nothing() -> None:
    enough = Lived(failures=(), faults={**ALL, ("M", "kill"): 5000}, evacuations=500)

    assert missed(_totals(enough), Targets()) == []


def test_each_target_that_is_missed_is_named() -> None:
    few = Lived(failures=(), faults={**ALL, ("P", "lies"): 19}, evacuations=499)

    assert missed(_totals(few), Targets()) == [
        f"{sum(n for cell, n in ALL.items() if cell not in NOISE) - 1} faults, of at least 5000",
        "499 evacuations, of at least 500",
        "P lies: 19 times, of at least 20",
    ]
