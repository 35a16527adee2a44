"""How a run is told at its end: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from rich.console import Console

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
            f"NOT AS EXPECTED: {problem}", style="bold red", highlight=False, markup=False
        )
    console.print(
        f"{len(outcome.moved)} came back, {len(outcome.judgement.ran_twice)} ran twice, "
        f"{len(outcome.judgement.lost)} lost",
        style="bold green" if outcome.passed else "bold red",
        highlight=False,
    )


def as_json(outcome: Outcome) -> str:
    """The outcome as one JSON object (design: instances, nodes, violations, events)."""
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
    return json.dumps(
        {
            "instances": instances,
            "nodes": outcome.nodes,
            "violations": outcome.judgement.violations,
            "failed": list(outcome.failed),
            "events": list(outcome.events),
            "end_s": round(outcome.end_s, 3),
        },
        indent=2,
        sort_keys=True,
        default=str,
    )
