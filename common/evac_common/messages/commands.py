"""Commands: imperatives from the controllers to one node.

Each is bound to a session (`term`, `incarnation`); a node in another session refuses it. A
duplicate, a late or a reordered command is harmless: epoch, run and tombstone decide on the node,
not the queue.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from evac_common.messages.registry import Family, Message, Part
from evac_common.model.identity import Gen, Id, Name, node_user
from evac_common.model.manifest import Mac
from evac_common.model.states import PoolKind


class Command(Message, family=Family.COMMAND, writer="scheduler"):
    node_id: Id = Field(description="The node that is to obey.")
    command_id: Id = Field(description="Same id, same command: a repetition is executed once.")
    term: int = Field(ge=1, description="Database term of the session this was issued for.")
    incarnation: int = Field(ge=1, description="Incarnation of the node this was issued for.")

    @property
    def gen(self) -> Gen:
        return Gen(self.term, self.incarnation)

    def routing_key(self) -> str:
        return f"compute.{node_user(self.node_id)}.{self.name}"

    def subject(self) -> str | None:
        return self.node_id


class Session(Command, name="session", writer="monitor"):
    """Opens a session: what the node may keep, and what was taken away from it. Starts nothing.

    Sent by the monitor only. Domains named in `superseded` with an epoch not above the one given
    are destroyed; every other domain that is not in `allowed` is quarantined.
    """

    allowed: dict[Id, int] = Field(
        description="Instance id → epoch: ledger rows of this very incarnation.", max_length=10000
    )
    superseded: dict[Id, int] = Field(
        description="Instance id → highest epoch that is surely not this node's any more.",
        max_length=10000,
    )
    proven_dead: bool = Field(
        default=False,
        description="This incarnation is proven dead: nothing may be started; once empty, the node "
        "raises its incarnation and registers again.",
    )
    boot_id: str = Field(
        default="",
        max_length=64,
        description="Boot of the machine that registered. Another machine with a copy of the "
        "node's identity reads the same queue and must not take the session. Empty: not told.",
    )


class DiskSpec(Part):
    """A disk, resolved: where the node finds it."""

    pool_kind: PoolKind
    source: str = Field(description="The pool's source, as declared.", max_length=1024)
    volume: str = Field(description="Name inside the pool.", max_length=128)
    format: str = Field(pattern=r"^(raw|qcow2)$")
    shareable: bool = False


class NicSpec(Part):
    bridge: str = Field(max_length=15)
    mac: Mac


class InstanceSpec(Part):
    """All that a node needs to build the domain."""

    name: Name
    vcpus: int = Field(ge=1)
    memory_mib: int = Field(ge=1)
    disks: list[DiskSpec] = Field(default_factory=list, max_length=64)
    nics: list[NicSpec] = Field(default_factory=list, max_length=32)


class OfInstance(Command):
    instance_id: Id
    epoch: int = Field(ge=1, description="Counter of the instance's owners.")


class Start(OfInstance, name="start"):
    """Start under this epoch and run, unless the epoch is released or the run is not newer."""

    run: int = Field(
        ge=1, description="Counter of starts within the epoch; only a higher one is executed."
    )
    issued_at: datetime | None = Field(
        default=None,
        description="When it was issued, by the same clock as `deadline`. The node counts from its "
        "arrival, so no two clocks are compared. Unset: the deadline is not judged.",
    )
    deadline: datetime = Field(description="Refused after this moment (UTC).")
    spec: InstanceSpec


class Stop(OfInstance, name="stop"):
    """Release this epoch: write the tombstone, end the domain, report `stopped`."""

    grace_s: float = Field(
        default=30.0, ge=0, le=3600, description="Time for the guest to power off; then force."
    )


class Destroy(OfInstance, name="destroy"):
    """End a domain of a superseded epoch at once (epochs not above the one given)."""
