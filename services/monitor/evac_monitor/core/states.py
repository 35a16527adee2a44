"""The states of a node as a table, and the only way from one to the next.

Everything that may happen to a node is an `On`; what is not in the table does not happen. `PROOFS`
are the only ways into `fenced`, and nothing but a higher incarnation leads out of `fencing`,
`blocked` and `fenced` towards service.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from evac_common.model.states import NodeState


class On(StrEnum):
    REGISTERED = "registered"  # its daemon registered under the recorded (or its first) incarnation
    HIGHER_INCARNATION = (
        "higher_incarnation"  # it registered under a higher one: all lower are dead
    )
    SESSION_APPLIED = "session_applied"  # it reported that the session's contract holds
    SILENT = "silent"  # no heartbeat for suspect_after_s
    HEARD = "heard"  # a heartbeat of its session
    HEARD_WITHOUT_SESSION = "heard_without_session"  # a heartbeat of its incarnation, other session
    TROUBLED = "troubled"  # alive and in trouble, or its troubles are others than before
    RECOVERED = "recovered"  # alive, and nothing is wrong with it any more
    SHOWN_ALIVE = "shown_alive"  # silent, and a second channel shows the host alive
    TERM_ROSE = "term_rose"  # its session is of a term that is over
    GATES_OPEN = "gates_open"  # silent for fence_after_s and every gate is open
    OPERATOR_FENCE = "operator_fence"  # an operator wants it cut off
    POWER_PROVEN = "power_proven"  # its BMC read Off twice
    OPERATOR_CONFIRMED = "operator_confirmed"  # an operator vouches that it is off
    METHODS_EXHAUSTED = "methods_exhausted"  # no automatic method proved it dead


PROOFS: Final = (On.POWER_PROVEN, On.OPERATOR_CONFIRMED)


class Row(NamedTuple):
    state: NodeState
    on: On
    then: NodeState
    why: str


_NEW, _JOINING, _UP = NodeState.NEW, NodeState.JOINING, NodeState.UP
_DEGRADED = NodeState.DEGRADED
_SUSPECT, _FENCING = NodeState.SUSPECT, NodeState.FENCING
_BLOCKED, _FENCED = NodeState.BLOCKED, NodeState.FENCED

TABLE: Final = (
    Row(_NEW, On.REGISTERED, _JOINING, "its first registration; a session is on its way"),
    Row(_JOINING, On.REGISTERED, _JOINING, "it asked again and its contract has changed"),
    Row(_JOINING, On.HIGHER_INCARNATION, _JOINING, "it rebooted before its session was applied"),
    Row(_JOINING, On.SESSION_APPLIED, _UP, "nothing superseded is left on it"),
    Row(_JOINING, On.TERM_ROSE, _JOINING, "it needs a session of the new term"),
    Row(_JOINING, On.SILENT, _SUSPECT, "silent while joining; nothing is touched"),
    Row(_JOINING, On.OPERATOR_FENCE, _FENCING, "an operator decided"),
    Row(_UP, On.REGISTERED, _JOINING, "its daemon restarted and needs its session again"),
    Row(_UP, On.HIGHER_INCARNATION, _JOINING, "it rebooted; what it ran is gone"),
    Row(_UP, On.TERM_ROSE, _JOINING, "it needs a session of the new term"),
    Row(_UP, On.SILENT, _SUSPECT, "silent; nothing is touched"),
    Row(_UP, On.OPERATOR_FENCE, _FENCING, "an operator decided"),
    Row(_UP, On.TROUBLED, _DEGRADED, "alive and in trouble; it receives nothing new"),
    Row(_DEGRADED, On.TROUBLED, _DEGRADED, "its troubles have changed"),
    Row(_DEGRADED, On.RECOVERED, _UP, "nothing is wrong with it any more"),
    Row(_DEGRADED, On.TERM_ROSE, _JOINING, "it needs a session of the new term"),
    Row(_DEGRADED, On.SILENT, _SUSPECT, "silent; nothing is touched"),
    Row(_DEGRADED, On.HEARD_WITHOUT_SESSION, _JOINING, "it speaks again and needs a session"),
    Row(_DEGRADED, On.REGISTERED, _JOINING, "its daemon restarted and needs its session again"),
    Row(_DEGRADED, On.HIGHER_INCARNATION, _JOINING, "it rebooted; what it ran is gone"),
    Row(_DEGRADED, On.OPERATOR_FENCE, _FENCING, "an operator decided"),
    Row(_SUSPECT, On.SHOWN_ALIVE, _DEGRADED, "its daemon is silent and its host is alive"),
    Row(_SUSPECT, On.TROUBLED, _DEGRADED, "it speaks again, in its session, and is in trouble"),
    Row(_SUSPECT, On.HEARD, _UP, "it speaks again, in its session; nothing was touched"),
    Row(_SUSPECT, On.HEARD_WITHOUT_SESSION, _JOINING, "it speaks again and needs a session"),
    Row(_SUSPECT, On.REGISTERED, _JOINING, "its daemon restarted and needs its session again"),
    Row(_SUSPECT, On.HIGHER_INCARNATION, _JOINING, "it rebooted; what it ran is gone"),
    Row(_SUSPECT, On.GATES_OPEN, _FENCING, "silent for too long, and no reason to doubt ourselves"),
    Row(_SUSPECT, On.OPERATOR_FENCE, _FENCING, "an operator decided"),
    Row(_SUSPECT, On.OPERATOR_CONFIRMED, _FENCED, "an operator vouches that it is off"),
    Row(_FENCING, On.POWER_PROVEN, _FENCED, "its power was read off, twice"),
    Row(_FENCING, On.OPERATOR_CONFIRMED, _FENCED, "an operator vouches that it is off"),
    Row(_FENCING, On.METHODS_EXHAUSTED, _BLOCKED, "an unproven power-off is no power-off"),
    Row(_FENCING, On.HIGHER_INCARNATION, _JOINING, "it rebooted by itself: that is a proof too"),
    Row(_BLOCKED, On.POWER_PROVEN, _FENCED, "a later try read its power off, twice"),
    Row(_BLOCKED, On.OPERATOR_CONFIRMED, _FENCED, "an operator vouches that it is off"),
    Row(_BLOCKED, On.HIGHER_INCARNATION, _JOINING, "it rebooted by itself: that is a proof too"),
    Row(_FENCED, On.HIGHER_INCARNATION, _JOINING, "it came back under a new incarnation"),
)

_BY_KEY: Final = {(row.state, row.on): row for row in TABLE}


def next_row(state: NodeState, on: On) -> Row | None:
    """The row for what happened in this state; None when nothing follows from it."""
    return _BY_KEY.get((state, on))


def diagram() -> str:
    """The table as a mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", f"    [*] --> {NodeState.NEW}"]
    lines += [f"    {row.state} --> {row.then}: {row.on.replace('_', ' ')}" for row in TABLE]
    return "\n".join(lines) + "\n"
