"""Restart times: from the last sign of life on a lost node to the first one elsewhere."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from evac_lab.judge import Execution, judge
from evac_lab.restarts import print_restarts, restarts
from evac_lab.runner import Outcome

ZERO = datetime(2026, 2, 28, tzinfo=UTC)


def life(instance: str, node: str, started_s: float, ended_s: float | None) -> Execution:
    return Execution(instance=instance, node=node, started_s=started_s, ended_s=ended_s)


def outcome(*lives: Execution, fenced: dict[str, float]) -> Outcome:
    events = [
        {
            "name": "node.fencing",
            "time": (ZERO + timedelta(seconds=at_s)).isoformat(),
            "data": {"node": node},
        }
        for node, at_s in fenced.items()
    ]
    return Outcome(
        judgement=judge(lives, should_run=[], end_s=60),
        failed=[],
        lines=[],
        nodes={},
        instances={},
        events=events,
        moved=[],
        executions=lives,
        zero=ZERO,
        end_s=60,
    )


def test_detection_is_told_apart_from_what_follows() -> None:
    found = restarts(
        outcome(
            life("a", "n1", -5, 8),
            life("a", "n2", 18, None),
            life("b", "n3", -5, None),
            fenced={"n1": 14},
        )
    )

    (one,) = found
    assert (one.instance, one.from_node, one.to_node) == ("a", "n1", "n2")
    assert one.took_s == pytest.approx(10)
    assert one.beyond_detection_s == pytest.approx(4)


def test_without_a_fencing_nothing_was_detected() -> None:
    (one,) = restarts(outcome(life("a", "n1", 0, 8), life("a", "n1", 9, None), fenced={"n2": 3}))

    assert one.beyond_detection_s is None


def test_lives_that_overlap_are_no_restart() -> None:
    assert restarts(outcome(life("a", "n1", 0, 9), life("a", "n2", 8, None), fenced={})) == []


def test_the_median_is_printed() -> None:
    lives = [
        found
        for name, back_s in (("a", 12), ("b", 13), ("c", 17))
        for found in (life(name, "n1", 0, 8), life(name, "n2", back_s, None))
    ]
    shown = io.StringIO()
    print_restarts(Console(file=shown, width=100), restarts(outcome(*lives, fenced={"n1": 10})))

    assert (
        "restart time: median of 3: 5.00 s (best 4.00 s, worst 9.00 s); "
        "beyond detection: median of 3: 3.00 s" in shown.getvalue()
    )
