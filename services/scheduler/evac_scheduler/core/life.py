"""What should happen next to one instance: a table over intent, ledger, status and owner's node.

The table is total: `decide` finds exactly one first row for every combination. Nothing here starts
an instance under a new owner; `PLACE` and `RECOVER` only say that it may be planned, and why.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Final, NamedTuple

from evac_common.model.states import NodeState, Phase
from evac_scheduler.core.facts import Instance, Owner


class Want(StrEnum):
    RUN = "run"
    HALT = "halt"


class Reach(StrEnum):
    """What may be sent to the owner's node."""

    UP = "up"  # everything
    JOINING = "joining"  # a stop, never a start
    AWAY = "away"  # nothing


class Do(StrEnum):
    NOTHING = "nothing"  # as it should be
    WAIT = "wait"  # for a release, a proof or the node; the reason says which
    PLACE = "place"  # nobody owns it: plan it
    RECOVER = "recover"  # its owner is proven dead: an open item, then plan it
    START_AGAIN = "start again"  # same owner, same epoch, next run
    SEND_START = "send start"  # the start is not answered
    BEGIN_STOP = "begin stop"  # ask the owner to release it
    SEND_STOP = "send stop"  # the stop is not answered
    SETTLE_STOPPED = "settle stopped"  # nothing runs and nothing should


class Row(NamedTuple):
    want: Want
    owner: Owner
    phases: Collection[Phase]
    reach: Collection[Reach]
    do: Do
    why: str


ANY_PHASE: Final = tuple(Phase)
ANY_REACH: Final = tuple(Reach)
_TALKS: Final = (Reach.UP, Reach.JOINING)
_NOT_UP: Final = (Reach.JOINING, Reach.AWAY)
_AWAY: Final = (Reach.AWAY,)

TABLE: Final = (
    Row(Want.HALT, Owner.NONE, (Phase.STOPPED,), ANY_REACH, Do.NOTHING, "stopped, as wanted"),
    Row(Want.HALT, Owner.NONE, ANY_PHASE, ANY_REACH, Do.SETTLE_STOPPED, "nobody owns it"),
    Row(Want.HALT, Owner.DEAD, (Phase.STOPPED,), ANY_REACH, Do.NOTHING, "stopped, as wanted"),
    Row(Want.HALT, Owner.DEAD, ANY_PHASE, ANY_REACH, Do.SETTLE_STOPPED, "its node is proven dead"),
    Row(
        Want.HALT,
        Owner.LIVE,
        (Phase.STOPPING,),
        _TALKS,
        Do.SEND_STOP,
        "its owner has not released it yet",
    ),
    Row(
        Want.HALT,
        Owner.LIVE,
        (Phase.STOPPING,),
        _AWAY,
        Do.WAIT,
        "its owner's node is silent and not proven dead",
    ),
    Row(Want.HALT, Owner.LIVE, ANY_PHASE, ANY_REACH, Do.BEGIN_STOP, "it should not run"),
    Row(Want.RUN, Owner.NONE, ANY_PHASE, ANY_REACH, Do.PLACE, "nobody owns it"),
    Row(Want.RUN, Owner.DEAD, ANY_PHASE, ANY_REACH, Do.RECOVER, "its node is proven dead"),
    Row(Want.RUN, Owner.LIVE, (Phase.RUNNING,), ANY_REACH, Do.NOTHING, "running, as wanted"),
    Row(
        Want.RUN,
        Owner.LIVE,
        (Phase.STARTING,),
        (Reach.UP,),
        Do.SEND_START,
        "its start is not answered yet",
    ),
    Row(
        Want.RUN,
        Owner.LIVE,
        (Phase.STARTING,),
        _NOT_UP,
        Do.WAIT,
        "its owner's node is not up and not proven dead",
    ),
    Row(
        Want.RUN,
        Owner.LIVE,
        (Phase.PENDING, Phase.EXITED),
        (Reach.UP,),
        Do.START_AGAIN,
        "its owner may start it again",
    ),
    Row(
        Want.RUN,
        Owner.LIVE,
        (Phase.PENDING, Phase.EXITED),
        _NOT_UP,
        Do.WAIT,
        "its owner's node is not up and not proven dead",
    ),
    # A stop on its way cannot be called back: only the release makes room for the next epoch.
    Row(
        Want.RUN,
        Owner.LIVE,
        (Phase.STOPPING,),
        _TALKS,
        Do.SEND_STOP,
        "its owner must release it first",
    ),
    Row(
        Want.RUN,
        Owner.LIVE,
        (Phase.STOPPING,),
        _AWAY,
        Do.WAIT,
        "its owner's node is silent and not proven dead",
    ),
    Row(
        Want.RUN,
        Owner.LIVE,
        (Phase.STOPPED,),
        ANY_REACH,
        Do.BEGIN_STOP,
        "an owner without a release: ask for it",
    ),
)


def reach(state: NodeState | None) -> Reach:
    match state:
        case NodeState.UP | NodeState.DEGRADED:
            return Reach.UP
        case NodeState.JOINING:
            return Reach.JOINING
        case _:
            return Reach.AWAY


def find(want: Want, owner: Owner, phase: Phase, to: Reach) -> Row:
    for row in TABLE:
        if row.want is want and row.owner is owner and phase in row.phases and to in row.reach:
            return row
    raise AssertionError(f"the life table has no row for {want}, {owner}, {phase}, {to}")


def decide(instance: Instance) -> Row:
    """The first row that fits. An instance that was never seen counts as pending.

    What cannot be read is neither started nor stopped: nobody knows what its user wants.
    """
    want = Want.RUN if instance.wanted else Want.HALT
    if instance.unreadable and instance.wanted:
        phase = (instance.phase or Phase.PENDING,)
        why = f"its declaration cannot be read: {instance.unreadable}"
        return Row(want, instance.owner, phase, ANY_REACH, Do.WAIT, why)
    return find(want, instance.owner, instance.phase or Phase.PENDING, reach(instance.node_state))


def held(instance: Instance) -> str:
    """Why it must not be started anywhere now, though it should run; empty: it may be.

    A living copy that the ledger does not explain may be the only one, or the second one.
    """
    return f"{instance.stranger}: nothing is started beside it" if instance.stranger else ""
