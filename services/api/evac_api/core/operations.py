"""When an operation is over: facts of the owners' tables in, state and message out.

Api alone updates operations, and only by looking: it never asks anybody, so an operation settles
also after every service has been restarted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from evac_common.model.states import NodeState, OperationState, Phase, RunStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    id: str
    verb: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What the owner of the matter said about a wish."""

    succeeded: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFacts:
    exists: bool
    deleted: bool = False
    run_strategy: RunStrategy = RunStrategy.HALTED
    generation: int = 0
    phase: Phase | None = None
    reason: str = ""
    node: str = ""  # name of the owner, or of the last one
    node_up: bool = False
    owned: bool = False  # the last epoch is neither released nor its owner proven dead
    reserved: bool = False  # room is booked for it: it may be placed at any moment


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    exists: bool
    state: NodeState | None = None
    reason: str = ""
    proven_at: datetime | None = None  # the last proof about it


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    answered: Answered | None = None
    instance: InstanceFacts | None = None
    node: NodeFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    state: OperationState
    message: str


def settle(operation: Operation, facts: Facts) -> Outcome:
    """The operation's state now. PENDING carries what it waits for."""
    if facts.answered is not None:
        done = OperationState.SUCCEEDED if facts.answered.succeeded else OperationState.FAILED
        return Outcome(state=done, message=facts.answered.reason)
    match operation.verb:
        case "instance.start" if facts.instance:
            return _start(facts.instance)
        case "instance.stop" if facts.instance:
            return _stop(facts.instance)
        case "instance.delete" if facts.instance:
            return _delete(facts.instance)
        case "node.fence" | "node.confirm_down" if facts.node:
            return _dead(operation, facts.node)
        case "node.evacuate" if facts.node:
            return _evacuate(facts.node)
        case _:
            return _pending("waits for the service that decides it")


def _pending(message: str) -> Outcome:
    return Outcome(state=OperationState.PENDING, message=message)


def _succeeded(message: str) -> Outcome:
    return Outcome(state=OperationState.SUCCEEDED, message=message)


def _cancelled(message: str) -> Outcome:
    return Outcome(state=OperationState.CANCELLED, message=message)


def _start(seen: InstanceFacts) -> Outcome:
    if not seen.exists or seen.deleted:
        return _cancelled("superseded: the instance was deleted")
    if seen.run_strategy is RunStrategy.HALTED:
        return _cancelled("superseded: the instance was stopped later")
    match seen.phase:
        case Phase.RUNNING if seen.node_up:
            return _succeeded(f"running on {seen.node}")
        case Phase.RUNNING:
            return _pending(f"last seen running on {seen.node}, which is not up")
        case None:
            return _pending("waits to be placed")
        case Phase.STARTING:
            return _pending(f"starting on {seen.node}" + _because(seen.reason))
        case Phase.PENDING | Phase.STOPPED:
            return _pending("waits to be placed" + _because(seen.reason))
        case Phase.STOPPING:
            return _pending(f"still stopping on {seen.node}" + _because(seen.reason))
        case Phase.EXITED:
            return _pending(f"its guest ended on {seen.node}" + _because(seen.reason))
        case _:
            assert_never(seen.phase)


def _stop(seen: InstanceFacts) -> Outcome:
    if not seen.exists:
        return _succeeded("the instance is gone")
    if seen.run_strategy is not RunStrategy.HALTED and not seen.deleted:
        return _cancelled("superseded: the instance was started later")
    if seen.phase is Phase.STOPPED or _is_free(seen):
        return _succeeded("stopped" + _because(seen.reason))
    if not seen.node_up and seen.node:
        return _pending(_waits_for(seen.node))
    return _pending(f"stopping on {seen.node}" if seen.node else "waits for the scheduler")


def _is_free(seen: InstanceFacts) -> bool:
    """Nobody owns it and nobody is about to: a plan made before the stop may be on its way."""
    under_way = seen.phase in (Phase.STARTING, Phase.RUNNING, Phase.STOPPING)
    return not seen.owned and not seen.reserved and not under_way


def _delete(seen: InstanceFacts) -> Outcome:
    if not seen.exists:
        return _succeeded("deleted")
    if seen.owned and seen.node and not seen.node_up:
        return _pending(_waits_for(seen.node))
    return _pending(f"stopping on {seen.node}" if seen.owned else "waits to be removed")


def _dead(operation: Operation, seen: NodeFacts) -> Outcome:
    if not seen.exists:
        return _cancelled("superseded: the node was forgotten")
    if seen.proven_at is not None and seen.proven_at >= operation.created_at:
        return _succeeded("proven dead" + _because(seen.reason))
    if seen.state is NodeState.FENCED:
        return _succeeded("fenced" + _because(seen.reason))
    if seen.state is None:
        return _pending("waits for the monitor")
    return _pending(f"is {seen.state.value}" + _because(seen.reason))


def _evacuate(seen: NodeFacts) -> Outcome:
    if not seen.exists:
        return _cancelled("superseded: the node was forgotten")
    if seen.state is NodeState.FENCED:
        return _pending("fenced; its instances are being started elsewhere")
    if seen.state is None:
        return _pending("waits for the monitor")
    return _pending(f"is {seen.state.value}; waits for a proof that it is dead")


def _waits_for(node: str) -> str:
    return f"waits for {node}, which is not up: it must answer or be proven dead"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """What is left of a deleted instance in the others' tables."""

    owned: bool
    reserved: bool
    phase: Phase | None


def may_be_purged(remains: Remains) -> bool:
    """A deleted instance's record goes when no copy of it can run or be started any more."""
    return (
        not remains.owned
        and not remains.reserved
        and remains.phase not in (Phase.STARTING, Phase.RUNNING, Phase.STOPPING)
    )
