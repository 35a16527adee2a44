"""What becomes of an operator's wish about a node, by the node's state and what we hear of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from evac_common.model.states import NodeState
from evac_monitor.core.states import On, next_row


class Verb(StrEnum):
    FENCE = "fence"
    CONFIRM_DOWN = "confirm_down"


class ClusterVerb(StrEnum):
    DISARM = "disarm"
    ARM = "arm"
    STORM_RELEASE = "storm_release"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """What this monitor hears of a node. None: nothing since we listen."""

    silent_s: float | None
    listening_s: float  # for how long we could have heard it


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    on: On


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeed:
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouch:
    """The node is fenced already: the word counts for what it did in the history forgotten."""


Decision = Act | Succeed | Refuse | Wait | Vouch


def fence(state: NodeState) -> Decision:
    """`fence` skips detection and gates, never the proof: it is answered when that is there."""
    match state:
        case NodeState.FENCED:
            return Succeed(why="the node is fenced")
        case NodeState.FENCING:
            return Wait(why="the fencing is in progress")
        case NodeState.BLOCKED:
            return Refuse(
                why="the node is blocked, no automatic method works: make sure that it is off, "
                "then use confirm-down"
            )
        case NodeState.NEW:
            return Refuse(why="the node has never registered: there is nothing to fence")
    assert next_row(state, On.OPERATOR_FENCE), "every other state leads to fencing"
    return Act(on=On.OPERATOR_FENCE)


def confirm_down(
    state: NodeState, hearing: Hearing, suspect_after_s: float, *, recovering: bool
) -> Decision:
    """A person's word is taken for the proof, but not against the node's own heartbeats.

    `recovering`: the database went back in time. A proof from before says nothing about a later
    life of the node, so the word is asked for anew, and `hearing` is of any life.
    """
    fenced = state is NodeState.FENCED
    if fenced and not recovering:
        return Succeed(why="the node is fenced already")
    if not fenced and next_row(state, On.OPERATOR_CONFIRMED) is None:
        return Refuse(why=f"the node is {state}, not suspect, fencing or blocked")
    if hearing.silent_s is not None and hearing.silent_s < suspect_after_s:
        return Refuse(
            why=f"its heartbeats arrive, the last {hearing.silent_s:.1f} s ago: it is not down"
        )
    if hearing.listening_s < suspect_after_s:
        return Wait(why="this monitor has not listened long enough to know whether it is silent")
    return Vouch() if fenced else Act(on=On.OPERATOR_CONFIRMED)
