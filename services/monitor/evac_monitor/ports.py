"""What the monitor asks of the world: its records, its BMCs, its key. And the values that travel.

Every changing method of `Records` is one transaction and a compare-and-set: it returns False (or
None) when somebody else was first, and then nothing was changed. All may raise StoreUnavailable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Protocol

from evac_common.errors import EvacError
from evac_common.messages.reports import Registered, SessionApplied
from evac_common.model.states import NodeState, PowerKind
from evac_monitor.core import fencing, gate, wishes
from evac_monitor.core.fencing import PowerState
from evac_monitor.core.states import On


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """A node as recorded, with what its enrolment says."""

    node_id: str
    name: str
    state: NodeState
    term: int
    incarnation: int
    generation: int
    reason: str
    since: datetime
    heard_at: datetime | None = None
    session_command_id: str | None = None
    decision: tuple[dict[str, Any], ...] = ()
    dmi_uuid: str | None = None  # enrolled
    power: dict[str, Any] | None = field(default=None, repr=False)
    power_secret: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    term: int
    database_identity: str
    storm: bool
    storm_reason: str
    storm_released_at: datetime | None
    disarmed_until: datetime | None
    disarmed_reason: str
    last_fencing_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One consistent read."""

    now: datetime
    flags: Flags
    nodes: Sequence[NodeRow]
    powered_off: dict[
        str, datetime
    ]  # node id → newest automatic power proof within the blast window


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWish:
    wish_id: str
    node_id: str
    verb: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterWish:
    wish_id: str
    verb: str
    arguments: dict[str, Any]
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """A node in fencing or blocked, with the tries recorded for its incarnation."""

    node: NodeRow
    attempts: Sequence[fencing.Attempt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """What became of a report: for the log."""

    changed: bool
    why: str


class Records(Protocol):
    """The rows the monitor owns."""

    async def prepare(self) -> bool:
        """Write down which database this is; raise the term if it is another one now.

        True: the term rose.
        """

    async def probe(self) -> None:
        """Write something that changes nothing."""

    async def snapshot(self, *, window_s: float) -> Snapshot: ...

    async def adopt(self) -> tuple[int, int]:
        """Give every enrolled node a state, remove those of forgotten ones. Returns both counts."""

    async def register(self, report: Registered) -> Handled: ...

    async def session_applied(self, report: SessionApplied) -> Handled: ...

    async def remind(self, node: NodeRow) -> bool:
        """Send a joining node its session again, unless that was done lately."""

    async def change(
        self, node: NodeRow, on: On, why: str, *, silent_s: float, heard_at: datetime | None
    ) -> bool:
        """A change that needs nothing beside it: silent, heard."""

    async def hold(
        self, node: NodeRow, answers: Sequence[gate.Answer], newly_shut: Sequence[gate.Answer]
    ) -> bool:
        """Record why a silent node is not cut off."""

    async def note_heard(self, heard_at: dict[str, datetime]) -> None:
        """For display: when each node was last heard."""

    async def declare_storm(self, why: str, nodes: Sequence[str]) -> bool: ...

    async def begin_fencing(
        self, node: NodeRow, flags: Flags, answers: Sequence[gate.Answer], why: str
    ) -> bool:
        """The durable decision, by this monitor."""

    async def begin_fencing_for(self, node: NodeRow, wish: NodeWish) -> bool:
        """The durable decision, by an operator."""

    async def doomed(self) -> Sequence[Doomed]: ...

    async def begin_try(
        self, node: NodeRow, step: fencing.Try | fencing.Resume, seen: Sequence[fencing.Attempt]
    ) -> str | None:
        """Record that a try begins, or take one over. Returns the attempt's id."""

    async def end_try(self, attempt_id: str, state: fencing.AttemptState, detail: str) -> bool: ...

    async def prove_off(self, node: NodeRow, attempt_id: str, evidence: dict[str, Any]) -> bool:
        """Proof, fenced and `node.down` in one transaction, for this incarnation only."""

    async def block(self, node: NodeRow, why: str) -> bool: ...

    async def alarm_blocked(self, node: NodeRow, *, every_s: float) -> bool: ...

    async def open_node_wishes(self) -> Sequence[NodeWish]: ...

    async def open_cluster_wishes(self) -> Sequence[ClusterWish]: ...

    async def answer(self, wish: NodeWish, decision: wishes.Succeed | wishes.Refuse) -> bool: ...

    async def confirm_down(self, node: NodeRow, wish: NodeWish) -> bool: ...

    async def carry_out(self, wish: ClusterWish) -> bool:
        """Disarm, arm or release a storm, and answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerTarget:
    """How to reach the BMC of one node."""

    node_id: str
    kind: PowerKind
    address: str
    port: int
    username: str
    password: str = field(repr=False)


class PowerError(EvacError):
    """The BMC did not do or say what was asked.

    `hopeless`: asking again at once would meet the same (wrong password), and may lock the account.
    """

    code: ClassVar[str] = "power.failed"
    expected: ClassVar[bool] = True

    def __init__(self, message: str, *, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


class PowerDriver(Protocol):
    """One kind of BMC. Every call is bounded in time by the driver, and may be cancelled.

    All raise PowerError.
    """

    async def power_off(self, target: PowerTarget) -> None:
        """Order power off, hard, at once. Its return proves nothing."""

    async def power_state(self, target: PowerTarget) -> PowerState:
        """Ask the BMC itself, now: never a remembered answer."""

    async def identity(self, target: PowerTarget) -> str | None:
        """The UUID the BMC knows its system by, or None when it does not tell."""


class Secrets(Protocol):
    def decrypt(self, token: bytes) -> str:
        """Raises EvacError when the token was not made with this key."""
