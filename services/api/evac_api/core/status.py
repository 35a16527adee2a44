"""What may truthfully be said about an instance now, from what was last seen.

A report is a fact about the past. When its node is not up, it says nothing about now.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from evac_common.model.states import NodeState, Phase

#: heard_at is written every few seconds; older than this, the monitor itself does not work.
HEARD_OLD_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The last report about an instance, and the node it came from."""

    phase: Phase | None
    node: str | None = None
    node_state: NodeState | None = None
    node_heard_at: datetime | None = None
    reason: str = ""
    observed_at: datetime | None = None
    changed_at: datetime | None = None
    halted: bool = False
    deleted: bool = False


def summary(seen: Seen, now: datetime) -> str:
    """One line for people: `running on n2`, `unknown (last seen running on n2 41 s ago)`."""
    if seen.phase is None:
        return "stopped" if seen.halted or seen.deleted else "pending: waits to be placed"
    where = f" on {seen.node}" if seen.node else ""
    why = f": {seen.reason}" if seen.reason else ""
    match seen.phase:
        case Phase.PENDING:
            return f"pending{why}"
        case Phase.STOPPED:
            return "stopped" if seen.halted or seen.deleted else f"pending{why}"
        case Phase.RUNNING | Phase.STARTING | Phase.STOPPING | Phase.EXITED:
            word = seen.phase.value
    if seen.node_state is NodeState.FENCED:
        return f"not running: {seen.node} is proven dead (last seen {word}{_ago(seen, now)})"
    if not is_certain(seen, now):
        return f"unknown (last seen {word}{where}{_ago(seen, now)})"
    return f"{word}{where}" + ("" if seen.phase is Phase.RUNNING else why)


def is_certain(seen: Seen, now: datetime) -> bool:
    """True while the node is alive and the monitor hears it: what was last seen still holds."""
    if seen.node_state not in (NodeState.UP, NodeState.DEGRADED):
        return False
    heard = seen.node_heard_at
    return heard is None or age_s(heard, now) <= HEARD_OLD_S


def _ago(seen: Seen, now: datetime) -> str:
    at = seen.observed_at or seen.changed_at
    return f" {span(age_s(at, now))} ago" if at else ""


def age_s(at: datetime, now: datetime) -> float:
    return max(0.0, (now - at).total_seconds())


def span(seconds: float) -> str:
    """`41 s`, `3 min`, `5 h`, `2 d`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172800 else f"{seconds / 86400:.0f} d"
