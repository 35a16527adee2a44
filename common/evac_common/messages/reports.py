"""Reports: facts from one node to the controllers. The broker user must be the node of the body.

Only `Stopped` and `StartRefused` release an epoch, and both are sent after the tombstone is on
disk. `CommandRefused` frees nothing.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from evac_common.messages.registry import Family, Message, Part
from evac_common.model.identity import Gen, Id, node_user
from evac_common.model.states import ExitReason


class Report(Message, family=Family.REPORT, writer="compute"):
    node_id: Id
    incarnation: int = Field(ge=1, description="Incarnation of the node that speaks.")

    def routing_key(self) -> str:
        return f"{node_user(self.node_id)}.{self.name}"

    def subject(self) -> str | None:
        return self.node_id


class DomainSeen(Part):
    """A domain with evac's metadata, as the hypervisor shows it."""

    instance_id: Id
    epoch: int = Field(ge=1)
    run: int = Field(ge=0, default=0)
    running: bool = Field(description="False: it exists but does not execute (paused, crashed).")


class Registered(Report, name="registered"):
    """The node's daemon started and asks for a session; repeated until one arrives."""

    boot_id: str = Field(max_length=64)
    term_seen: int = Field(
        default=0,
        ge=0,
        le=2**40,  # a number that nobody can come near, and from which one can go on
        description="Highest term of a session that the node was ever given.",
    )
    dmi_uuid: str = Field(max_length=64, description="DMI product UUID of the hardware.")
    hostname: str = Field(max_length=255, description="For display only.")
    daemon_version: str = Field(max_length=64)
    hypervisor: str = Field(max_length=128, description="Name and version of the hypervisor.")
    vcpus: int = Field(ge=0, description="As the hypervisor reports; the enrolled capacity wins.")
    memory_mib: int = Field(ge=0)
    bridges: list[str] = Field(default_factory=list, max_length=1024)
    inventory: list[DomainSeen] = Field(default_factory=list, max_length=10000)


class InSession(Report):
    term: int = Field(ge=1)

    @property
    def gen(self) -> Gen:
        return Gen(self.term, self.incarnation)


class SessionApplied(InSession, name="session_applied"):
    """The session's contract holds on the node: nothing superseded is left."""

    destroyed: list[Id] = Field(default_factory=list, max_length=10000)
    quarantined: list[Id] = Field(
        default_factory=list,
        max_length=10000,
        description="Domains kept running that nobody allowed.",
    )


class OfInstance(InSession):
    instance_id: Id
    epoch: int = Field(ge=1)


class Started(OfInstance, name="started"):
    """The instance executes on this node under this epoch and run."""

    run: int = Field(ge=1)


class StartErrorKind(StrEnum):
    STORAGE_LOCKED = "storage_locked"  # an image lock is held: it may still run elsewhere
    STORAGE = "storage"  # a volume or pool is missing or unreadable
    CAPACITY = "capacity"  # not enough memory or CPU on the node
    NETWORK = "network"  # a bridge is missing
    HYPERVISOR = "hypervisor"  # the hypervisor failed, is away, or did not answer in time
    INVALID = "invalid"  # the hypervisor does not accept the definition
    RELEASED = "released"  # released here earlier; said again because the start came again


class StartFailed(OfInstance, name="start_failed"):
    """A start failed, the epoch is kept: a higher run may try again here. Frees nothing."""

    run: int = Field(ge=1)
    kind: StartErrorKind
    detail: str = Field(max_length=2000)


class StartRefused(OfInstance, name="start_refused"):
    """The node will never run this epoch: its tombstone is on disk. Releases the epoch."""

    kind: StartErrorKind
    detail: str = Field(max_length=2000)


class StopReason(StrEnum):
    COMMANDED = "commanded"
    NODE_SHUTDOWN = "node_shutdown"


class Stopped(OfInstance, name="stopped"):
    """The domain is gone and its tombstone is on disk. Releases the epoch."""

    reason: StopReason = StopReason.COMMANDED


class Exited(OfInstance, name="exited"):
    """The guest ended by itself. The node keeps the epoch: a higher run may start it again."""

    run: int = Field(ge=0)
    reason: ExitReason


class Destroyed(OfInstance, name="destroyed"):
    """No domain of this instance with an epoch up to this one is left on the node."""


class Inventory(InSession, name="inventory"):
    """Everything evac has on this node, repeated: what a lost report would have said."""

    sequence: int = Field(ge=1, description="Rises within one daemon's life.")
    domains: list[DomainSeen] = Field(max_length=10000)
    exited: list[DomainSeen] = Field(
        default_factory=list, max_length=10000, description="Epochs held here whose domain is gone."
    )
    released: dict[Id, int] = Field(
        default_factory=dict,
        max_length=10000,
        description="Highest released epochs (tombstones) the node was asked about.",
    )


class RefusalReason(StrEnum):
    NO_SESSION = "no_session"
    OLD_GEN = "old_gen"
    OLD_EPOCH = "old_epoch"
    OLD_RUN = "old_run"
    DEADLINE = "deadline"
    WRONG_SENDER = "wrong_sender"
    OTHER_EPOCH_PRESENT = "other_epoch_present"


class CommandRefused(Report, name="command_refused"):
    """A command failed a check and was not executed. Frees nothing."""

    command_id: Id
    verb: str = Field(max_length=32)
    instance_id: Id | None = None
    epoch: int | None = None
    reason: RefusalReason
    detail: str = Field(max_length=2000)
