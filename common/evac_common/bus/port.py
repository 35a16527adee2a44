"""The port: what a service may ask of a bus, and what the bus promises.

- `publish` returns when the broker has taken responsibility; a timeout means *unknown*, and the
  same message id is published again later.
- A handler journals or commits, then returns a verdict. It never does long work: it may be
  cancelled when the connection is lost, and the message comes again.
- Order, and absence of repetition, are not promised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, Literal, Protocol


class QueueKind(Enum):
    QUORUM = auto()  # durable, replicated; reject-publish at the limit, dead-letters at least once
    EXCLUSIVE = auto()  # this connection's own, gone with it; drop-head at the limit
    STREAM = auto()  # append-only, replayed by offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    exchange: str
    routing_key: str  # a topic pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue as it must exist. A declaration with other arguments is a `BusRefused`."""

    name: str
    kind: QueueKind
    bindings: tuple[Binding, ...] = ()
    length_max: int = 10_000
    delivery_limit: int | None = 10
    single_active_consumer: bool = False
    message_ttl_s: float | None = None
    dead_letter_exchange: str | None = "evac.dead"
    max_age_s: int | None = None  # streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message to publish. `confirm=False` (heartbeats): transient, sent and forgotten."""

    exchange: str
    routing_key: str
    headers: Mapping[str, str]
    content_type: str
    body: bytes
    message_id: str
    confirm: bool = True
    mandatory: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message as it arrived. `user_id` was validated by the broker, or is None."""

    exchange: str
    routing_key: str
    headers: Mapping[str, Any]
    content_type: str | None
    body: bytes
    message_id: str | None
    user_id: str | None
    redelivered: bool = False
    returns: int = 0  # how often it came back unsettled or was retried


class Verdict(Enum):
    ACK = auto()  # done, or recorded: forget it
    REJECT = auto()  # never acceptable: to the dead-letter exchange
    RETRY = auto()  # not now (the database is away): again later, counts towards the delivery limit


Handler = Callable[[Delivery], Awaitable[Verdict]]

Offset = (
    int | Literal["first", "next"]
)  # of a stream: a number, all that is kept, or only what comes

#: The offset of a message that came from a stream is in this header.
OFFSET_HEADER: Final = "x-stream-offset"


@dataclass(frozen=True, slots=True, kw_only=True)
class BusHealth:
    """What the monitor's gate and `/readyz` look at. Times are of the loop's clock, in seconds."""

    connected: bool
    connected_since_s: float | None  # start of the present connection; None while there is none
    canary_at_s: float | None  # when the last canary came back through the broker
    detail: str = ""


@dataclass(slots=True)
class BusCounters:
    """What went over a bus, for `/metrics`."""

    published: int = 0
    publish_failed: int = 0
    delivered: int = 0
    rejected: int = 0
    retried: int = 0
    reconnects: int = 0
    by_exchange: dict[str, int] = field(default_factory=dict)


class Consumer(Protocol):
    async def cancel(self) -> None:
        """Stop receiving. Unsettled messages go back to the queue."""


class Bus(Protocol):
    """One service's connection to the bus, under one user. Survives any loss of the broker."""

    @property
    def user(self) -> str: ...

    @property
    def counters(self) -> BusCounters: ...

    async def run(self) -> None:
        """Connect and stay connected, for ever: a task of the service. Cancelled: disconnect."""

    async def wait_connected(self) -> None:
        """Return as soon as there is a connection."""

    def health(self) -> BusHealth: ...

    async def publish(self, message: Outgoing) -> None:
        """Hand a message to the broker, within the time limit of a call.

        Raises Unroutable (mandatory, and no queue), BusRefused or QueueFull: it was not taken.
        Raises BusUnavailable when the outcome is unknown: publish again, with the same id.
        """

    async def declare(self, queues: Sequence[Queue]) -> None:
        """Declare exchanges, queues, bindings; raises as publish. Controllers only."""

    async def consume(
        self, queue: str | Queue, handler: Handler, *, prefetch: int, offset: Offset | None = None
    ) -> Consumer:
        """Deliver messages to the handler, now and after every reconnect, until cancelled.

        A `Queue` is declared first, at every connect (exclusive ones exist only so). Returns at
        once, also while the broker is away. An exception from the handler counts as RETRY and is
        logged. `offset` is for streams, and only for them: where to begin; after a reconnect it
        goes on behind the last message that was settled.
        """

    async def delete_queue(self, name: str) -> None:
        """Remove a queue (a forgotten node's). Controllers only."""
