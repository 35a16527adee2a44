"""Restart times: from an instance's last sign of life on a lost node to its first one elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median

from rich.console import Console
from rich.table import Table

from evac_lab.runner import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """One instance that came back. Seconds."""

    instance: str
    from_node: str
    to_node: str
    took_s: float
    # The part after the monitor decided to fence the old node (power-off, proof, plan, start): what
    # is left when the time that detection waits on purpose is taken away. None: it was not fenced.
    beyond_detection_s: float | None


def restarts(outcome: Outcome) -> list[Restart]:
    """Every restart of a run, by instance and in time."""
    fencings = [
        (event["data"]["node"], (datetime.fromisoformat(event["time"]) - outcome.zero))
        for event in outcome.events
        if event["name"] == "node.fencing"
    ]
    lives: dict[str, list[tuple[float, float | None, str]]] = {}
    for life in sorted(outcome.executions, key=lambda life: (life.started_s, life.node)):
        lives.setdefault(life.instance, []).append((life.started_s, life.ended_s, life.node))
    found = []
    for instance in sorted(lives):
        for (_, ended_s, lost), (started_s, _, node) in pairwise(lives[instance]):
            if ended_s is None or ended_s > started_s:
                continue  # ran twice: the judge tells
            decided = [
                at.total_seconds()
                for fenced, at in fencings
                if fenced == lost and at.total_seconds() < started_s
            ]
            found.append(
                Restart(
                    instance=instance,
                    from_node=lost,
                    to_node=node,
                    took_s=started_s - ended_s,
                    beyond_detection_s=started_s - decided[-1] if decided else None,
                )
            )
    return found


def print_restarts(console: Console, found: Sequence[Restart]) -> None:
    """A line for each and their median."""
    if not found:
        return
    table = Table(title="restart times", title_justify="left")
    for column in ("instance", "from", "to"):
        table.add_column(column)
    table.add_column("restart time", justify="right")
    table.add_column("beyond detection", justify="right")
    for one in found:
        beyond = "-" if one.beyond_detection_s is None else f"{one.beyond_detection_s:.2f} s"
        table.add_row(one.instance, one.from_node, one.to_node, f"{one.took_s:.2f} s", beyond)
    console.print(table)
    took = [one.took_s for one in found]
    text = (
        f"restart time: median of {len(took)}: {median(took):.2f} s "
        f"(best {min(took):.2f} s, worst {max(took):.2f} s)"
    )
    beyonds = [one.beyond_detection_s for one in found if one.beyond_detection_s is not None]
    if beyonds:
        text += f"; beyond detection: median of {len(beyonds)}: {median(beyonds):.2f} s"
    console.print(text, highlight=False, soft_wrap=True)
