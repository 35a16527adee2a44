"""What the scheduler needs from its database, in its own words.

A transaction is open while a `Records` is in hand: everything it writes becomes true at once, or
not at all. Nothing but its own methods may be awaited meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from evac_common.messages.commands import Destroy, Start, Stop
from evac_common.messages.events import Event
from evac_common.model.states import NodeState, Phase, ReleaseKind
from evac_scheduler.core.evacuation import On, Slot
from evac_scheduler.core.facts import Claim, Instance, Proof
from evac_scheduler.core.orders import PoolSource
from evac_scheduler.core.placement import NodeView
from evac_scheduler.core.recovery import Adopt, LeftAlone, Waits
from evac_scheduler.core.recovery import Sighting as Copy
from evac_scheduler.core.reports import Speaker
from evac_scheduler.core.sending import Sent


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChange:
    """The status as it shall be. `candidates` None: those of the last plan stay."""

    phase: Phase
    why: str
    attempts: int
    next_at: datetime | None = None
    node_id: str | None = None
    epoch: int | None = None
    run: int | None = None
    observed: bool = False
    candidates: Sequence[Mapping[str, str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemChange:
    """What an occurrence does to the items of one instance (states: core/evacuation.py)."""

    on: On
    reason: str
    target_node_id: str | None = None
    target_epoch: int | None = None
    attempts: int = 0
    next_at: datetime | None = None
    candidates: Sequence[Mapping[str, str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """A reservation to make."""

    instance_id: str
    node_id: str
    vcpus: int
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LostBooking:
    """A reservation on a node that is not up any more."""

    instance_id: str
    node: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedItem:
    """An item that an occurrence moved: whose evacuation it belongs to."""

    evacuation_id: str
    node_id: str  # the dead node
    node: str
    proven_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Evacuation:
    evacuation_id: str
    node_id: str
    node: str
    proven_at: datetime
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """An operator's wish to evacuate a node, not answered yet, with what decides about it."""

    wish_id: str
    node_id: str
    node: str | None  # None: forgotten
    actor: str
    state: NodeState | None
    evacuations: int  # all that this node ever had
    open_items: int  # of theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """An instance whose evacuation item is open for so long that a person should look."""

    instance_id: str
    instance: str
    node_id: str  # the dead node
    node: str
    since: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A domain of an inventory, and whether the ledger's own rows explain it."""

    instance_id: str
    epoch: int
    run: int
    running: bool
    explained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A command row, with what it takes to send it again."""

    sent: Sent
    row: Mapping[str, Any] = field(repr=False)


class Records(Protocol):
    """One transaction."""

    @property
    def now(self) -> datetime: ...

    def new_id(self) -> str: ...

    async def lock_planning(self) -> None:
        """One planner at a time; held to the end of the transaction."""

    async def planned(self, took_s: float) -> None: ...

    # a database that went back in time

    async def distrust(self) -> str:
        """Why nothing may be started or ended now: rows may be missing. Empty: all is well."""

    async def taken(self, speaker: Speaker) -> None:
        """An inventory of this node was taken in, in its present session."""

    async def remembered(self, node_id: str) -> Mapping[str, Mapping[str, Any]]:
        """What earlier inventories of this node showed and the ledger did not explain."""

    async def show(
        self,
        speaker: Speaker,
        shown: Sequence[Shown],
        *,
        before: Mapping[str, Mapping[str, Any]],
        gone: Collection[str],
    ) -> None:
        """Remember that it shows these. `before`: as remembered; `gone`: surely not on it now."""

    async def recovery(self) -> Waits | Adopt | None:
        """What the recovery in progress waits for or comes to. None: there is none to do."""

    async def adopt(self, epoch: Copy) -> Claim:
        """A forgotten epoch into the ledger, with its node's word as the proof."""

    async def recovered(self, adopted: Sequence[Copy], left: Sequence[LeftAlone]) -> None:
        """Every copy of this recovery is judged, and the monitor may end it."""

    # reads

    async def any_work(self) -> bool:
        """Is an instance not as it should be, a room booked, an evacuation or a wish open?"""

    async def attention(self) -> list[Instance]:
        """Every instance that is not as it should be, in plan order."""

    async def known(self, instance_ids: Collection[str]) -> dict[str, Instance]:
        """These instances, as they are at this moment."""

    async def locked(self, instance_ids: Collection[str]) -> dict[str, Instance]:
        """These instances, kept from changing until the end of the transaction."""

    async def speaker(self, node_id: str) -> Speaker | None: ...

    async def node_name(self, node_id: str) -> str: ...

    async def enrolled(self) -> list[str]:
        """Node ids."""

    async def nodes(self) -> tuple[NodeView, ...]: ...

    async def pools(self) -> dict[str, PoolSource]: ...

    async def starting(self) -> list[Slot]:
        """Starts that hold a slot: commanded, not answered, their node not proven dead."""

    async def announced(self, name: str, subjects: Collection[str]) -> set[tuple[str, str, int]]:
        """(instance, node, epoch) of the events of this name about these instances."""

    # ledger

    async def assign(self, instance: Instance, node: NodeView) -> Claim:
        """A new owner under the next epoch, with the proof that the last one is over."""

    async def next_run(self, instance: Instance) -> Claim | None:
        """One more start of the same owner. None: somebody else was first."""

    async def release(self, instance: Instance, kind: ReleaseKind, evidence: str) -> None: ...

    # status

    async def introduce(self, instances: Sequence[Instance]) -> None:
        """First status rows: pending, with the reason "new"."""

    async def change(self, instance: Instance, to: StatusChange) -> bool:
        """Compare-and-set against the instance as it was read. False: somebody else was first."""

    async def observed(self, instance_ids: Collection[str]) -> None:
        """A report has confirmed these as they are."""

    async def clear_away(self, instance_id: str) -> None:
        """Remove what is left of an instance whose record is gone. The ledger stays."""

    # reservations

    async def book(self, bookings: Sequence[Booking]) -> None: ...

    async def unbook(self, instance_ids: Collection[str]) -> None: ...

    async def lost_bookings(self) -> list[LostBooking]: ...

    # evacuations

    async def open_items(
        self, proof: Proof, node_id: str, instances: Sequence[Instance]
    ) -> int | None:
        """One evacuation per proof, one item per instance; missing ones are added.

        Returns the number of items when the evacuation is new, else None.
        """

    async def move_items(self, instance_id: str, to: ItemChange) -> list[MovedItem]: ...

    async def finished(self) -> list[Evacuation]:
        """Close the open evacuations without open items, and return them."""

    async def overdue(self, *, open_s: float, again_s: float) -> list[Overdue]:
        """Items open for longer than `open_s` and not alarmed within `again_s`; by instance."""

    async def planned_evacuations(self, instance_ids: Collection[str]) -> list[MovedItem]:
        """The open evacuations that these instances have open items in, one row per item."""

    async def evacuation_id(self, node_id: str, incarnation: int) -> str: ...

    async def wishes(self) -> list[Wish]: ...

    async def answer(self, wish: Wish, *, succeeded: bool, reason: str) -> None: ...

    # commands

    async def kept(self, instance_ids: Collection[str]) -> dict[tuple[str, str, int, int], Kept]:
        """Command rows by (instance, verb, epoch, run)."""

    async def send(
        self,
        command: Start | Stop | Destroy,
        *,
        deadline: datetime | None,
        times: int,
        next_at: datetime,
    ) -> None:
        """Keep the command and put it into the outbox, in place of the same epoch and run."""

    async def send_again(self, kept: Kept, *, next_at: datetime) -> bool:
        """The same id and the same bytes. False: another replica has just done it."""

    async def answered(self, instance_id: str, verbs: Collection[str]) -> None:
        """Forget the commands of an instance: their answer is here, or cannot come any more."""

    async def refused(self, command_id: str, *, node_id: str, next_at: datetime) -> bool:
        """This id will not be obeyed: not before `next_at`, another one takes its place.

        False: nobody waits for this command any more.
        """

    # what every change owes the world

    async def emit(self, event: Event) -> None: ...

    async def audit(
        self, *, action: str, subject: str, reason: str, detail: Mapping[str, Any] | None = None
    ) -> None: ...


class Database(Protocol):
    """Raises StoreUnavailable when it cannot be reached; Conflict: another replica was first."""

    def transaction(self) -> AbstractAsyncContextManager[Records]: ...

    def read(self) -> AbstractAsyncContextManager[Records]: ...
