"""The items of evacuations: their states as a table, and who is started in which wave.

There is no failure state: whatever goes wrong leads back to PENDING, with a reason. An instance may
have open items in two evacuations (its second node died as well); they move together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from evac_common.model.states import ItemState, NodeState


def took_s(proven_at: datetime, now: datetime) -> float:
    """From the proof until now, in seconds.

    The monitor's wall clock wrote the one and the scheduler's the other: it is as good as they
    agree, and never below 0.
    """
    return max(0.0, (now - proven_at).total_seconds())


class On(StrEnum):
    RESERVED = "reserved"  # the plan found a target
    NO_TARGET = "no target"  # the plan found none
    TARGET_LEFT = "target left"  # the target is not up any more, nothing was started there
    LAUNCHED = "launched"  # the ledger names the target, its start is commanded
    RUNNING = "running"  # the target reported it running
    RELEASED = "released"  # the target refused or released it
    TARGET_DIED = "target died"  # the target is proven dead itself
    UNWANTED = "unwanted"  # halted or deleted
    WANTED = "wanted"  # started again by its user while its node is still the dead one


class Row(NamedTuple):
    state: ItemState
    on: On
    then: ItemState
    why: str


TABLE: Final = (
    Row(ItemState.PENDING, On.RESERVED, ItemState.RESERVED, "room is booked on the target"),
    Row(ItemState.PENDING, On.NO_TARGET, ItemState.PENDING, "no node can take it now"),
    Row(
        ItemState.RESERVED, On.TARGET_LEFT, ItemState.PENDING, "the target left up before the start"
    ),
    Row(ItemState.RESERVED, On.LAUNCHED, ItemState.STARTING, "the ledger names the target"),
    # Room was booked before the item was opened: another replica planned in between.
    Row(ItemState.PENDING, On.LAUNCHED, ItemState.STARTING, "the ledger names the target"),
    Row(ItemState.STARTING, On.RUNNING, ItemState.DONE, "the target reported it running"),
    Row(ItemState.STARTING, On.RELEASED, ItemState.PENDING, "the target released it"),
    Row(ItemState.STARTING, On.TARGET_DIED, ItemState.PENDING, "the target is proven dead"),
    Row(ItemState.PENDING, On.UNWANTED, ItemState.CANCELLED, "its user does not want it to run"),
    Row(ItemState.RESERVED, On.UNWANTED, ItemState.CANCELLED, "its user does not want it to run"),
    Row(ItemState.STARTING, On.UNWANTED, ItemState.CANCELLED, "its user does not want it to run"),
    Row(ItemState.CANCELLED, On.WANTED, ItemState.PENDING, "its user wants it to run again"),
)
FINAL: Final = (ItemState.DONE, ItemState.CANCELLED)
OPEN: Final = (ItemState.PENDING, ItemState.RESERVED, ItemState.STARTING)


def sources(on: On) -> tuple[ItemState, ...]:
    """The states that an occurrence applies to; in any other it changes nothing."""
    return tuple(row.state for row in TABLE if row.on is on)


def then(on: On) -> Row:
    """The row of an occurrence; all rows of one occurrence lead to the same state."""
    return next(row for row in TABLE if row.on is on)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many starts may be unanswered at once."""

    per_node: int = 2
    per_pool: int = 8
    total: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A start, wanted or under way: where it is, and which pools it reads."""

    instance_id: str
    node_id: str
    pools: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    instance_id: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    start: tuple[str, ...]  # instance ids, in order
    held: tuple[Held, ...]


def select(waiting: Sequence[Slot], starting: Sequence[Slot], limits: Limits) -> Wave:
    """Who of `waiting`, in its order, may start now beside those already starting.

    A slot is freed by a report, a release or a proof, never by a time limit.
    """
    nodes = Counter(slot.node_id for slot in starting)
    pools = Counter(pool for slot in starting for pool in dict.fromkeys(slot.pools))
    total = len(starting)
    start: list[str] = []
    held: list[Held] = []
    for slot in waiting:
        own = tuple(dict.fromkeys(slot.pools))
        full = next((pool for pool in own if pools[pool] >= limits.per_pool), None)
        if total >= limits.total:
            held.append(Held(instance_id=slot.instance_id, why=f"{total} starts are under way"))
        elif nodes[slot.node_id] >= limits.per_node:
            why = f"{nodes[slot.node_id]} starts are under way on its target"
            held.append(Held(instance_id=slot.instance_id, why=why))
        elif full is not None:
            why = f"{pools[full]} starts are under way on pool {full}"
            held.append(Held(instance_id=slot.instance_id, why=why))
        else:
            start.append(slot.instance_id)
            total += 1
            nodes[slot.node_id] += 1
            pools.update(own)
    return Wave(start=tuple(start), held=tuple(held))


@dataclass(frozen=True, slots=True, kw_only=True)
class WishAnswer:
    """`succeeded` None: not yet, and `why` says what it waits for."""

    succeeded: bool | None
    why: str


def answer_wish(state: NodeState | None, *, evacuations: int, waiting: int) -> WishAnswer:
    """What a wish to evacuate a node has come to. `waiting`: items that are still open."""
    match state:
        case None:
            return WishAnswer(succeeded=False, why="the node is not enrolled any more")
        case NodeState.FENCING | NodeState.SUSPECT | NodeState.BLOCKED:
            return WishAnswer(
                succeeded=None, why=f"{state.value}: waits for a proof that it is dead"
            )
        case _ if waiting:
            return WishAnswer(succeeded=None, why=f"{waiting} instances do not run elsewhere yet")
        case NodeState.FENCED:
            return WishAnswer(succeeded=True, why="nothing that should run is left on it")
        case _ if evacuations:
            return WishAnswer(succeeded=True, why="its evacuation is done, and the node is back")
        case _:
            # Drain is the right word for it, and not in this version.
            why = f"it is {state.value}, not dead; to empty it, shut it down in good order"
            return WishAnswer(succeeded=False, why=why)
