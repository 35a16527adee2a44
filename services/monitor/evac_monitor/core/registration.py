"""What a node that registers may have: a session, nothing, or a person's attention.

A session's contract is computed here. `allowed` are the ledger's rows of this very incarnation;
what the node shows beyond that is either surely not its own any more (`superseded`, it destroys it)
or unknown to the ledger (named nowhere: it keeps it in quarantine). The scheduler judges what nodes
show later by the same rule (`evac_scheduler.core.reports.judge`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from evac_common.model.states import NodeState
from evac_monitor.core.states import On


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The node as the database knows it."""

    node_id: str
    state: NodeState
    term: int
    incarnation: int  # 0: never registered
    dmi_uuid: str | None  # enrolled, or seen at the first registration
    boot_id: str | None = None  # under which the recorded incarnation registered
    proven_incarnation: int = 0  # highest incarnation with a proof; covers all lower


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    instance_id: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the node says of itself."""

    incarnation: int
    dmi_uuid: str
    boot_id: str
    inventory: Sequence[Domain] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The ledger's highest row of an instance."""

    instance_id: str
    epoch: int
    node_id: str
    incarnation: int
    released: bool  # its owner said that this epoch is over
    dead: bool  # its owner's incarnation is proven dead

    @property
    def over(self) -> bool:
        """Nobody may run this epoch any more, whoever shows it."""
        return self.released or self.dead


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    allowed: dict[str, int] = field(default_factory=dict)
    superseded: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Nothing changes; the operator must look."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignore:
    """Nothing changes, and nobody needs to know."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSession:
    """Give it a session; if it is joining under the same contract already, the same one again."""

    on: On
    contract: Contract
    proof_incarnation: int | None  # prove this incarnation and all lower dead
    rebooted: bool  # it was not proven dead before
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StillAlive:
    """It was proven dead and speaks: alarm, and a session in which it may keep nothing."""

    contract: Contract
    why: str


Decision = Refuse | Ignore | OpenSession | StillAlive


def decide(recorded: Recorded, told: Told, owners: Sequence[Owner]) -> Decision:
    """`owners`: the highest row of each instance that the node shows, or that is its own."""
    if recorded.dmi_uuid and recorded.dmi_uuid.lower() != told.dmi_uuid.lower():
        return Refuse(
            why=f"DMI UUID {told.dmi_uuid.lower()} is not the enrolled {recorded.dmi_uuid.lower()}"
        )
    if told.incarnation < recorded.incarnation:
        return Refuse(
            why=f"incarnation {told.incarnation} is lower than the recorded {recorded.incarnation}"
        )
    if told.incarnation > recorded.incarnation:
        return _arrival(recorded, told, owners)
    if recorded.boot_id and told.boot_id != recorded.boot_id:
        # A new boot raises the incarnation, and only the node does that, on its own disk. So its
        # journal went back in time: tombstones and runs are forgotten. Its next boot raises it.
        return Refuse(
            why=f"incarnation {told.incarnation} was of boot {recorded.boot_id} and comes again "
            f"from boot {told.boot_id}: its journal went back in time, reboot it"
        )
    match recorded.state:
        case NodeState.FENCING | NodeState.BLOCKED:
            return Ignore(why=f"it is {recorded.state}: only a higher incarnation leads back")
        case NodeState.FENCED:
            return StillAlive(
                contract=contract(recorded.node_id, told, owners, proven_dead=True),
                why=f"incarnation {told.incarnation} was proven dead and registered again",
            )
    return OpenSession(
        on=On.REGISTERED,
        contract=contract(recorded.node_id, told, owners),
        proof_incarnation=None,
        rebooted=False,
        why=f"its daemon registered again under incarnation {told.incarnation}",
    )


def _arrival(recorded: Recorded, told: Told, owners: Sequence[Owner]) -> OpenSession:
    first = recorded.incarnation == 0
    lower = told.incarnation - 1
    unproven = not first and recorded.proven_incarnation < lower
    return OpenSession(
        on=On.REGISTERED if first else On.HIGHER_INCARNATION,
        contract=contract(recorded.node_id, told, owners),
        proof_incarnation=lower if unproven else None,
        rebooted=not first and recorded.state is not NodeState.FENCED,
        why=f"it registered for the first time, incarnation {told.incarnation}"
        if first
        else f"it registered under incarnation {told.incarnation}, recorded was "
        f"{recorded.incarnation}",
    )


def contract(
    node_id: str, told: Told, owners: Sequence[Owner], *, proven_dead: bool = False
) -> Contract:
    """What the node may keep, and what it shows that is surely not its own."""

    def own(row: Owner) -> bool:
        mine = row.node_id == node_id and row.incarnation == told.incarnation
        return mine and not row.over and not proven_dead

    def over(row: Owner) -> int:
        """The highest epoch that is surely over for this node."""
        earlier_life = row.node_id == node_id and not own(row)
        # Another node's living row says nothing about a second domain of the same epoch: that one
        # may be the only copy that lives. Below it every epoch has a successor, so a proof.
        return row.epoch if row.over or earlier_life else row.epoch - 1

    allowed = {row.instance_id: row.epoch for row in owners if own(row)}
    highest = {row.instance_id: over(row) for row in owners}
    superseded = {
        domain.instance_id: highest[domain.instance_id]
        for domain in told.inventory
        if domain.epoch <= highest.get(domain.instance_id, 0)
    }
    return Contract(
        allowed=dict(sorted(allowed.items())), superseded=dict(sorted(superseded.items()))
    )
