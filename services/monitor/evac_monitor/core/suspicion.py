"""Who is silent, and for how long: by our own monotonic clock, never by a sender's.

Silence is counted from the later of the last heartbeat and the moment from which we could have
heard one (`watched_s`: our start, or the end of whatever made us deaf).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evac_common.model.states import NodeState
from evac_monitor.core.states import On


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    suspect_after_s: float
    fence_after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as recorded, and what was heard of its recorded incarnation."""

    node_id: str
    name: str
    state: NodeState
    term: int
    watched_s: float
    heard_s: float | None = None
    heard_term: int = 0

    def silent_s(self, now_s: float) -> float:
        return now_s - max(self.watched_s, self.heard_s if self.heard_s is not None else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the monitor knew at one instant."""

    now_s: float
    nodes: Sequence[Node]
    deaf: str = ""  # why this monitor cannot trust silence now; empty: it can


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The node's state should change."""

    node_id: str
    on: On
    silent_s: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """Silent long enough to be cut off, if the gates agree."""

    node_id: str
    silent_s: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Silence means nothing now; nobody becomes suspect."""

    why: str


Decision = Change | Overdue | Hold


def decide(view: View, policy: Policy) -> tuple[Decision, ...]:
    """Changes and overdue nodes, the longest silent first, ties by name."""
    nodes = sorted(view.nodes, key=lambda node: (-node.silent_s(view.now_s), node.name))
    decisions: list[Decision] = [Hold(why=view.deaf)] if view.deaf else []
    for node in nodes:
        decision = _judge(node, view, policy)
        if decision is not None:
            decisions.append(decision)
    return tuple(decisions)


def _judge(node: Node, view: View, policy: Policy) -> Decision | None:
    silent_s = node.silent_s(view.now_s)
    lately = node.heard_s is not None and view.now_s - node.heard_s < policy.suspect_after_s
    if node.state is NodeState.SUSPECT and lately:
        in_session = node.heard_term == node.term
        return Change(
            node_id=node.node_id,
            on=On.HEARD if in_session else On.HEARD_WITHOUT_SESSION,
            silent_s=silent_s,
            why="its heartbeats arrive again" + ("" if in_session else ", without its session"),
        )
    if view.deaf:
        return None
    why = f"silent for {silent_s:.1f} s"
    if node.state in (NodeState.UP, NodeState.JOINING) and silent_s >= policy.suspect_after_s:
        return Change(node_id=node.node_id, on=On.SILENT, silent_s=silent_s, why=why)
    if node.state is NodeState.SUSPECT and silent_s >= policy.fence_after_s:
        return Overdue(node_id=node.node_id, silent_s=silent_s, why=why)
    return None
