"""What the monitor asks of the world: its records, its BMCs, its key, witnesses of a silent node.

And the values that travel. `service.serve` takes `second_channel` and `peers`, None by default: not
there. Doubles of the two are `adapters.witnesses_simulated.SimulatedSecondChannel(alive)` with
`alive(node_id) -> bool | None`, and `SimulatedPeers(reaches)` with `reaches(peer_id, node_id) ->
bool | None`; None: who is asked does not answer.

Every changing method of `Records` is one transaction and a compare-and-set: it returns False (or
None) when somebody else was first, and then nothing was changed. All may raise StoreUnavailable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Protocol

from evac_common.errors import EvacError
from evac_common.messages.reports import Registered, SessionApplied
from evac_common.model.states import NodeState, PowerKind, Trouble
from evac_monitor.core import fencing, gate, wishes
from evac_monitor.core.fencing import PowerState
from evac_monitor.core.states import On
from evac_monitor.core.trouble import NO_TROUBLES, Unanswered


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
    troubles: tuple[dict[str, str], ...] = ()  # {"reason": Trouble, "why"}
    isolated: bool = False
    found_off: bool = False
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
    disarmed_said_at: datetime | None
    last_fencing_at: datetime | None
    recovering: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One consistent read."""

    now: datetime
    flags: Flags
    nodes: Sequence[NodeRow]
    # Node id → newest automatic power proof within the blast window, unless it was found off.
    powered_off: dict[str, datetime]


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
    # Decided in a past that the database forgot parts of: its power is read and not switched off.
    only_read: bool


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

    async def ahead(self, node_id: str, incarnation: int, term: int) -> bool:
        """It is heard in this session: if the database has not given it, begin a recovery.

        True: the term rose.
        """

    async def session_anew(self, node: NodeRow) -> bool:
        """Give a serving node a session of the present term, unless it has one."""

    async def ask_to_register(self, node: NodeRow, incarnation: int) -> bool:
        """Make a node that lives under this later incarnation say so."""

    async def vouch(self, node: NodeRow, wish: NodeWish) -> bool:
        """A fenced node needs not be heard in this recovery: an operator says that it is off."""

    async def finish_recovery(self) -> str:
        """End the recovery when the scheduler has done its part. Returns what was said."""

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
        self,
        node: NodeRow,
        on: On,
        why: str,
        *,
        silent_s: float,
        heard_at: datetime | None,
        troubles: Mapping[Trouble, str] = NO_TROUBLES,
        isolated: bool = False,
    ) -> bool:
        """A change that needs nothing beside it: silent, heard, troubled, recovered."""

    async def mark_isolated(
        self, node: NodeRow, isolated: bool, why: str, on_isolated: gate.OnIsolated
    ) -> bool:
        """Record whether a second channel shows a suspect node alive; its state stays."""

    async def unanswered(self) -> Sequence[Unanswered]:
        """Commands to nodes in their session that the scheduler still waits for, and sends."""

    async def hold(
        self, node: NodeRow, answers: Sequence[gate.Answer], newly_shut: Sequence[gate.Answer]
    ) -> bool:
        """Record why a silent node is not cut off."""

    async def note_heard(self, heard_at: dict[str, datetime]) -> None:
        """When each node was last heard: for people, and for monitors that do not hear it."""

    async def declare_storm(self, why: str, nodes: Sequence[str]) -> bool: ...

    async def begin_fencing(
        self,
        node: NodeRow,
        flags: Flags,
        answers: Sequence[gate.Answer],
        why: str,
        *,
        found_off: bool = False,
    ) -> bool:
        """The durable decision, by this monitor.

        Not when anybody has noted hearing the node since `node` was read. `found_off`: its power
        read Off before, so this fencing counts in no blast radius.
        """

    async def begin_fencing_for(self, node: NodeRow, wish: NodeWish) -> bool:
        """The durable decision, by an operator."""

    async def doomed(self) -> Sequence[Doomed]: ...

    async def begin_try(
        self,
        node: NodeRow,
        step: fencing.Try | fencing.Resume,
        seen: Sequence[fencing.Attempt],
        *,
        only_read: bool,
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

    async def remind_disarmed(self, *, every_s: float) -> str:
        """Say again that fencing is disarmed, or arm it when the time is over. What was said."""

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
    system: str = ""  # Redfish: which of the BMC's; empty: the only one
    tls_sha256: str = ""  # Redfish: the certificate that is trusted; empty: a valid one


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


class WitnessError(EvacError):
    """A witness of a silent node could not be asked, or cannot tell."""

    code: ClassVar[str] = "witness.failed"
    expected: ClassVar[bool] = True


class SecondChannel(Protocol):
    """Another way than the broker by which a host shows that it is alive (shared storage, say)."""

    async def alive(self, node_id: str) -> bool:
        """Whether the host shows itself there now. Bounded in time. Raises WitnessError."""


class Peers(Protocol):
    """Other nodes, which can be asked whether they reach a node."""

    async def reaches(self, peer_id: str, node_id: str) -> bool:
        """Whether that peer reaches the node now. Bounded in time.

        Raises WitnessError when the peer does not answer.
        """


class Secrets(Protocol):
    def decrypt(self, token: bytes) -> str:
        """Raises EvacError when the token was not made with this key."""
