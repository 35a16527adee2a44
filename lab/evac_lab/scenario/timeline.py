"""What a time line can say, as values: one line, one thing that happens.

    at 120 power n1 off
    at 150 kill compute@n2
    at 300 end

Plain data: `verbs` reads them from text, a cluster's `act` carries them out, and what one kind of
cluster cannot do it refuses by line before anything starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

CONTROLLERS: Final = ("api", "scheduler", "monitor")
COMPUTE: Final = "compute"
SERVICES: Final = (*CONTROLLERS, COMPUTE)
REPLICAS_MAX: Final = 3
REBOOT_S: Final = 30.0  # from an orderly reboot's power-off until the power is on again

BROKER: Final = "broker"
DATABASE: Final = "database"
STORAGE: Final = "storage"
SHARED_PARTS: Final = (BROKER, DATABASE, STORAGE)
# No node may bear these names: a line could mean either.
RESERVED: Final = (*SERVICES, *SHARED_PARTS)


class Direction(StrEnum):
    """Of a cut, seen from the endpoint that the line names."""

    IN = "in"  # it hears nothing
    OUT = "out"  # nobody hears it
    BOTH = "both"


class BrokerState(StrEnum):
    ON = "on"
    OFF = "off"  # kill -9; what was durable is still on its disk
    ALARM = "alarm"  # out of memory or disk: it takes no publish, and says nothing


class DatabaseState(StrEnum):
    ON = "on"
    OFF = "off"
    SLOW = "slow"
    READONLY = "readonly"
    LOSE_ACK = "lose-ack"  # the commit happens, the client only sees its connection end
    SAVE = "save"
    RESTORE = "restore"  # it goes back to what was saved, and is another database from then on


class Noise(StrEnum):
    """What the bus does to a share of the messages."""

    LOSE = "lose"
    DUPLICATE = "duplicate"
    DELAY = "delay"
    REORDER = "reorder"
    CALM = "calm"  # nothing any more


class BmcState(StrEnum):
    ON = "on"
    OFF = "off"  # no answer
    SLOW = "slow"  # answers after 60 s
    LIES = "lies"  # accepts the order and does nothing
    WRONG = "wrong"  # it is the BMC of another machine


class StorageState(StrEnum):
    ON = "on"
    OFF = "off"
    SLOW = "slow"
    LOCKED = "locked"  # image locks of dead guests are left over


class LibvirtState(StrEnum):
    HANG = "hang"
    RESUME = "resume"  # well again, whatever was wrong
    KILL = "kill"  # libvirtd dies and is back after 5 s; guests live
    SLOW = "slow"


class GuestWhat(StrEnum):
    POWEROFF = "poweroff"  # it shuts itself down
    CRASH = "crash"
    PANIC = "panic"
    HANG = "hang"  # it executes and does nothing
    LOST = "lost"  # it ends, the hypervisor forgets it, and nobody is told
    REFUSE_START = "refuse-start"
    DIE_EARLY = "die-early"


class DiskAct(StrEnum):
    SAVE = "save"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """The plug of a node's hardware is pulled, or put back."""

    node: str
    on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Orderly:
    """The node shuts down as it should: guests are stopped and reported so, then it is off."""

    node: str
    back: bool  # on again after REBOOT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The way between an endpoint and a peer; never the BMC's."""

    endpoint: str  # a node, a controller, or one replica of a controller
    on: bool
    peer: str | None  # None: everything that the endpoint talks to
    direction: Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """kill -9; its supervisor starts it again after 5 s."""

    service: str  # `monitor`: every replica; `monitor-2`: that one; `compute` with its node
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The service manager stops it, and it stays so until `Start`."""

    service: str
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    service: str
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """SIGSTOP: it does nothing, its connections stay open, time goes on."""

    service: str
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    service: str
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    state: BrokerState


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    state: DatabaseState
    times: int  # of LOSE_ACK; 1 for all else


@dataclass(frozen=True, slots=True, kw_only=True)
class BusNoise:
    """From now on this share of all messages, each on each of its ways, has this happen to it."""

    kind: Noise
    percent: float  # 0 for CALM


@dataclass(frozen=True, slots=True, kw_only=True)
class Bmc:
    node: str
    state: BmcState


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A node's way to the shared storage."""

    node: str
    state: StorageState


@dataclass(frozen=True, slots=True, kw_only=True)
class Libvirt:
    node: str
    state: LibvirtState


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestAct:
    instance: str
    what: GuestWhat
    times: int  # of REFUSE_START and DIE_EARLY; 1 for all else


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The node's own disk, with the journal of its daemon; not the guests' disks."""

    node: str
    what: DiskAct


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """From its next boot the node's daemon presents itself as another node: a cloned disk."""

    node: str
    of: str | None  # None: as itself again


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJump:
    """The wall clock is set; the monotonic clock goes on as if nothing were."""

    target: str  # a node, a controller, or one replica of a controller
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockRate:
    """Its clocks run fast (or slow, when negative); the wall clock drifts with the other one."""

    target: str
    percent: float  # 0: well again


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of the operator's CLI; the runner runs it, not the cluster's `act`."""

    argv: tuple[str, ...]  # without the leading `evac`
    may_fail: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The run ends and the expectations are judged."""


Action = (
    Power
    | Orderly
    | Network
    | Kill
    | Stop
    | Start
    | Hang
    | Resume
    | Broker
    | Database
    | BusNoise
    | Bmc
    | Storage
    | Libvirt
    | GuestAct
    | Disk
    | Identity
    | ClockJump
    | ClockRate
    | Command
    | End
)
ServiceAct = Kill | Stop | Start | Hang | Resume


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    at_s: float
    text: str  # as written, without the time
    action: Action


def controller_of(name: str) -> tuple[str, int | None] | None:
    """`monitor-2` → ("monitor", 2), `monitor` → ("monitor", None); None for any other name."""
    service, dash, number = name.partition("-")
    if service not in CONTROLLERS:
        return None
    if not dash:
        return service, None
    return (service, int(number)) if number.isdecimal() and number[0] != "0" else None
