"""Who is silent, and for how long: by our own monotonic clock, never by a sender's.

Silence is counted from the later of the last heartbeat and the moment from which we could have
heard one (`watched_s`: our start, or the end of whatever made us deaf).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from evac_common.model.states import NodeState, Trouble
from evac_monitor.core.states import On
from evac_monitor.core.trouble import sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    suspect_after_s: float
    fence_after_s: float
    together_s: float  # who falls silent within this time does so at once
    all_share: float = 0.9  # of the nodes that could be heard: nearly all
    wait_for_isolated: bool = True


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
    elsewhere_s: float | None = None  # when another monitor heard it, about
    troubles: Mapping[Trouble, str] = field(default_factory=dict)  # what is wrong, if it is alive
    isolated: bool = False  # as recorded: silent, and a second channel showed it alive
    shown_alive: bool | None = None  # by the second channel, lately; None: it has not answered
    shown_why: str = ""

    def last_s(self) -> float:
        """From when on it is silent: for us, and for every other monitor."""
        known = (self.watched_s, self.heard_s, self.elsewhere_s)
        return max(moment for moment in known if moment is not None)

    def silent_s(self, now_s: float) -> float:
        return now_s - self.last_s()


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
    troubles: Mapping[Trouble, str] = field(default_factory=dict)
    isolated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Only whether it is recorded as isolated should change."""

    node_id: str
    isolated: bool
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


Decision = Change | Mark | Overdue | Hold

_SERVING = (NodeState.UP, NodeState.JOINING)
_LISTENED_TO = (*_SERVING, NodeState.DEGRADED, NodeState.SUSPECT)


def decide(view: View, policy: Policy) -> tuple[Decision, ...]:
    """Changes and overdue nodes, the longest silent first, ties by name."""
    nodes = sorted(view.nodes, key=lambda node: (-node.silent_s(view.now_s), node.name))
    decisions: list[Decision] = [Hold(why=view.deaf)] if view.deaf else []
    for node in nodes:
        decisions += _judge(node, view, policy)
    return tuple(decisions)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllSilent:
    """Nearly every node fell silent at the same time: it is the broker, not the nodes."""

    nodes: frozenset[str]  # ids
    why: str


def all_at_once(nodes: Sequence[Node], now_s: float, policy: Policy) -> AllSilent | None:
    """Whether the nodes fell silent so close together that the cause is what they share.

    Of the nodes that could be heard until then, `all_share` and at least two must have been heard
    for the last time within `together_s`. Who was silent long before does not count, neither way;
    nor does a node that a second channel shows alive: its silence is explained.
    """
    listened = [node for node in nodes if node.state in _LISTENED_TO and not node.isolated]
    silent = [node for node in listened if node.silent_s(now_s) >= policy.suspect_after_s]
    if not silent:
        return None
    newest_s = max(node.last_s() for node in silent)
    fell = [node for node in silent if newest_s - node.last_s() <= policy.together_s]
    heard = len(listened) - len(silent)
    if len(fell) < max(2, ceil(policy.all_share * (len(fell) + heard))):
        return None
    of = "all" if not heard else f"{len(fell)} of"
    why = (
        f"{of} {len(fell) + heard} nodes fell silent within {policy.together_s:g} s: "
        "the broker or our way to it, not the nodes; waits for heartbeats"
    )
    return AllSilent(nodes=frozenset(node.node_id for node in fell), why=why)


def _judge(node: Node, view: View, policy: Policy) -> list[Decision]:
    silent_s = node.silent_s(view.now_s)
    lately = node.heard_s is not None and view.now_s - node.heard_s < policy.suspect_after_s
    if node.state is NodeState.SUSPECT and lately:
        return [_heard_again(node, silent_s)]
    if view.deaf or silent_s < policy.suspect_after_s:
        return []
    why = f"silent for {silent_s:.1f} s"
    fell_silent = Change(node_id=node.node_id, on=On.SILENT, silent_s=silent_s, why=why)
    match node.state:
        case NodeState.UP | NodeState.JOINING:
            return [fell_silent]
        case NodeState.DEGRADED:
            # Not yet asked (a monitor that has just started): what is recorded holds.
            shown = node.isolated and node.shown_alive in (True, None)
            return [] if shown else [fell_silent]
        case NodeState.SUSPECT:
            return _judge_suspect(node, silent_s, policy, why)
    return []


def _judge_suspect(node: Node, silent_s: float, policy: Policy, why: str) -> list[Decision]:
    if node.shown_alive and policy.wait_for_isolated:
        return [
            Change(
                node_id=node.node_id,
                on=On.SHOWN_ALIVE,
                silent_s=silent_s,
                why=f"{why}; {node.shown_why}",
                troubles={Trouble.DAEMON_SILENT: node.shown_why},
                isolated=True,
            )
        ]
    decisions: list[Decision] = []
    if node.shown_alive is not None and node.shown_alive is not node.isolated:
        mark = Mark(node_id=node.node_id, isolated=node.shown_alive, why=node.shown_why)
        decisions.append(mark)
    if silent_s >= policy.fence_after_s:
        decisions.append(Overdue(node_id=node.node_id, silent_s=silent_s, why=why))
    return decisions


def _heard_again(node: Node, silent_s: float) -> Change:
    why = "its heartbeats arrive again"
    if node.heard_term != node.term:
        why += ", without its session"
        on = On.HEARD_WITHOUT_SESSION
    elif node.troubles:
        why += f"; {sentence(node.troubles)}"
        return Change(
            node_id=node.node_id, on=On.TROUBLED, silent_s=silent_s, why=why, troubles=node.troubles
        )
    else:
        on = On.HEARD
    return Change(node_id=node.node_id, on=on, silent_s=silent_s, why=why)
