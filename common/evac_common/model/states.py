"""States and kinds: one word each, with what it promises about the world."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class NodeState(StrEnum):
    NEW = "new"  # enrolled, never registered
    JOINING = "joining"  # registered; its session is not applied yet: no placement
    UP = "up"  # session applied, heartbeats arrive: the only state that receives instances
    DEGRADED = (
        "degraded"  # alive and in trouble (`Trouble`): no placement, else as up, never fenced
    )
    SUSPECT = "suspect"  # silent for suspect_after_s: no placement, nothing else changes
    FENCING = (
        "fencing"  # durable decision to cut it off: never back to up without a new incarnation
    )
    BLOCKED = "blocked"  # every automatic method failed: a person must decide
    FENCED = "fenced"  # its incarnation is proven dead: it runs nothing


class Trouble(StrEnum):
    """Why a node that is surely alive is degraded. None of them is a reason to fence it."""

    NOT_EXECUTING = "not_executing"  # its heartbeats arrive, its commands stay unanswered
    STORAGE = "storage"  # its own word: it does not reach the storage of a pool
    LIBVIRT = "libvirt"  # its own word: its hypervisor has not answered for long
    SHUTTING_DOWN = "shutting_down"  # its own word: its machine shuts down, its guests are stopped
    DAEMON_SILENT = "daemon_silent"  # no heartbeat, and a second channel shows the host alive


#: What a node says of itself, in its heartbeats.
TOLD_TROUBLES: Final = (Trouble.STORAGE, Trouble.LIBVIRT, Trouble.SHUTTING_DOWN)


class ProofKind(StrEnum):
    """Why every domain of a node's incarnation (and of all lower ones) is surely dead."""

    POWER = "power"  # the BMC read Off twice, at least 1 s apart, after the decision to fence
    OPERATOR = "operator"  # a person vouched for it by name and with a reason (confirm-down)
    INCARNATION = "incarnation"  # the node itself registered with a higher incarnation


class ReleaseKind(StrEnum):
    """Why one epoch is surely over, said by its owner after its tombstone was on disk."""

    STOPPED = "stopped"
    START_REFUSED = "start_refused"


class RunStrategy(StrEnum):
    ALWAYS = "Always"
    RERUN_ON_FAILURE = "RerunOnFailure"
    MANUAL = "Manual"
    HALTED = "Halted"
    ONCE = "Once"


SUPPORTED_STRATEGIES: Final = (RunStrategy.ALWAYS, RunStrategy.HALTED)


class Phase(StrEnum):
    """What was last seen or begun for an instance (`instance_status.phase`)."""

    PENDING = "pending"  # should run, has no owner yet; the reason says what it waits for
    STARTING = "starting"  # an owner is in the ledger, its `started` is awaited
    RUNNING = "running"
    STOPPING = "stopping"  # a stop was commanded, its `stopped` is awaited
    STOPPED = "stopped"  # released; nobody owns it
    EXITED = "exited"  # the guest ended by itself; the owner still holds the epoch


class ItemState(StrEnum):
    """An instance's place in an evacuation. There is no failure state: open items stay open."""

    PENDING = "pending"  # no target yet, or back from one; `reason` says why, `next_at` when again
    RESERVED = "reserved"  # capacity is booked on the target; waits for its wave
    STARTING = "starting"  # ledger row written, start commanded
    DONE = "done"  # the target reported it running
    CANCELLED = "cancelled"  # halted, deleted, or its user stopped it


class EvacuationState(StrEnum):
    OPEN = "open"
    DONE = "done"


class OperationState(StrEnum):
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class PoolKind(StrEnum):
    DIR = "dir"
    NFS = "nfs"
    RBD = "rbd"
    LVM = "lvm"
    NBD = "nbd"


class LockScope(StrEnum):
    CLUSTER = "cluster"
    HOST = "host"
    NONE = "none"


class PowerKind(StrEnum):
    IPMI = "ipmi"
    REDFISH = "redfish"


#: Where a BMC listens, by the standards: IPMI on UDP, Redfish (HTTPS) on TCP.
POWER_PORTS: Final[Mapping[PowerKind, int]] = {PowerKind.IPMI: 623, PowerKind.REDFISH: 443}


class ExitReason(StrEnum):
    """How a domain ended, as told by the hypervisor (libvirt's reasons, named in evac's words)."""

    SHUTDOWN = "shutdown"  # the guest powered itself off
    CRASHED = "crashed"  # qemu died or the guest crashed
    PANICKED = "panicked"
    DESTROYED = "destroyed"  # somebody else destroyed the domain
    LOST = "lost"  # it is not there any more and nobody saw it end
