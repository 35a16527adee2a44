"""How a run is told at its end: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evac_lab.golden import in_order
from evac_lab.runner import Outcome
from evac_lab.view import result_table


def print_outcome(console: Console, outcome: Outcome) -> None:
    """What came back, for how long it was down, and the verdict in one line."""
    if outcome.moved:
        console.print(result_table(outcome.judgement, outcome.moved))
        down_s = [outcome.judgement.histories[name].downtime_s for name in outcome.moved]
        console.print(
            f"downtime: median {median(down_s):.1f} s, worst {max(down_s):.1f} s", highlight=False
        )
    for problem in dict.fromkeys([*outcome.judgement.violations, *outcome.failed]):
        console.print(
            f"NOT AS EXPECTED: {problem}",
            style="bold red",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    console.print(
        f"{len(outcome.came_back)} came back, {len(outcome.judgement.ran_twice)} ran twice, "
        f"{len(outcome.judgement.lost)} lost",
        style="bold green" if outcome.passed else "bold red",
        highlight=False,
    )


def as_json(outcome: Outcome) -> str:
    """The outcome as one JSON object."""
    return to_json(as_object(outcome))


def to_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True, default=str)


def as_object(outcome: Outcome) -> dict[str, Any]:
    """Instances, nodes, violations, events, and the log's lines."""
    instances: dict[str, Any] = {}
    for name, history in outcome.judgement.histories.items():
        item = outcome.instances.get(name, {})
        instances[name] = {
            "state": "running" if history.node else "down",
            "node": history.node,
            "epoch": item.get("epoch"),
            "starts": history.starts,
            "restarts": max(0, history.starts - 1),
            "downtime_s": round(history.downtime_s, 3),
            "overlap_s": round(history.overlap_s, 3),
            "explain": item.get("explain"),
        }
    return {
        "instances": instances,
        "nodes": outcome.nodes,
        "violations": outcome.judgement.violations,
        "failed": list(outcome.failed),
        "events": list(outcome.events),
        "log": [str(line) for line in in_order(outcome.lines)],
        "end_s": round(outcome.end_s, 3),
        "passed": outcome.passed,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One of several scenarios that were run one after the other."""

    name: str
    outcome: Outcome
    difference: Sequence[str]  # from its golden log
    took_s: float  # of this machine's time

    @property
    def passed(self) -> bool:
        return self.outcome.passed and not self.difference


def print_rows(console: Console, rows: Sequence[Row]) -> None:
    """A line for each scenario, and how many were not as expected."""
    table = Table(title="scenarios", title_justify="left")
    table.add_column("scenario")
    table.add_column("end", justify="right")
    table.add_column("came back", justify="right")
    table.add_column("took", justify="right")
    table.add_column("result")
    for row in rows:
        wrong = len(dict.fromkeys([*row.outcome.judgement.violations, *row.outcome.failed]))
        problems = [f"{wrong} not as expected"] if wrong else []
        problems += ["log differs"] if row.difference else []
        table.add_row(
            row.name,
            f"{row.outcome.end_s:.0f} s",
            str(len(row.outcome.came_back)),
            f"{row.took_s:.1f} s",
            Text(", ".join(problems) or "as expected", style="red" if problems else "green"),
        )
    console.print(table)
    bad = sum(not row.passed for row in rows)
    console.print(
        f"{len(rows)} scenarios, {bad} not as expected",
        style="bold red" if bad else "bold green",
        highlight=False,
    )
