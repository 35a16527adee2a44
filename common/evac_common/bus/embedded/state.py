"""What a broker has on its disk: users, exchanges, queues, bindings and the messages in them.

It outlives the broker object, as a disk outlives a killed process; a broker started on the same
state is the restarted one.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from evac_common.bus.permissions import Permissions, controller_permissions
from evac_common.bus.port import OFFSET_HEADER, Delivery, Outgoing, Queue, QueueKind
from evac_common.model.identity import CONTROLLER_USERS

if TYPE_CHECKING:
    from evac_common.bus.embedded.broker import EmbeddedBroker


@dataclass(slots=True)
class Stored:
    """A message in a queue. `seq` is its place: whatever comes back takes its old place again."""

    seq: int
    delivery: Delivery
    returns: int = 0
    expires_at_s: float | None = None


@dataclass(slots=True)
class StoredQueue:
    queue: Queue
    bindings: dict[tuple[str, str], None] = field(default_factory=dict)  # (exchange, pattern)
    _ready: list[tuple[int, Stored]] = field(default_factory=list)  # a heap, by place
    _next_seq: int = 0
    stuck: list[Delivery] = field(default_factory=list)  # dead letters nobody is bound for yet
    stream: deque[tuple[int, float, Delivery]] = field(
        default_factory=deque
    )  # offset, time, message
    next_offset: int = 0

    def __len__(self) -> int:
        return len(self.stream) if self.queue.kind is QueueKind.STREAM else len(self._ready)

    def add(self, delivery: Delivery, now_s: float) -> None:
        ttl_s = self.queue.message_ttl_s
        expires_at_s = None if ttl_s is None else now_s + ttl_s
        self.put_back(Stored(self._next_seq, delivery, expires_at_s=expires_at_s))
        self._next_seq += 1

    def put_back(self, stored: Stored) -> None:
        heapq.heappush(self._ready, (stored.seq, stored))

    def take(self) -> Stored:
        """The first message. Raises IndexError when the queue is empty."""
        return heapq.heappop(self._ready)[1]

    def first(self) -> Stored | None:
        return self._ready[0][1] if self._ready else None

    def append(self, delivery: Delivery, now_s: float) -> None:
        """Add to a stream, and forget what is older than its age limit."""
        self.stream.append((self.next_offset, now_s, delivery))
        self.next_offset += 1
        age_s = self.queue.max_age_s
        while age_s is not None and self.stream and self.stream[0][1] < now_s - age_s:
            self.stream.popleft()

    def read(self, offset: int) -> Delivery | None:
        """The first message of a stream at or behind `offset`, with its own offset in a header."""
        if not self.stream or offset >= self.next_offset:
            return None
        oldest = self.stream[0][0]
        found, _, delivery = self.stream[max(0, offset - oldest)]
        return replace(delivery, headers={**delivery.headers, OFFSET_HEADER: found})

    def waiting(self) -> Iterator[Delivery]:
        """What is in the queue and with no consumer, first to last."""
        if self.queue.kind is QueueKind.STREAM:
            yield from (delivery for _, _, delivery in self.stream)
        else:
            yield from (stored.delivery for _, stored in sorted(self._ready, key=lambda e: e[0]))


@dataclass(slots=True)
class EmbeddedState:
    """The broker's disk, and the address clients connect to (`listening`)."""

    users: dict[str, Permissions] = field(default_factory=dict)
    exchanges: dict[str, None] = field(default_factory=dict)
    queues: dict[str, StoredQueue] = field(default_factory=dict)
    listening: EmbeddedBroker | None = None
    # told (user, name of the link it came over, message), for judges
    on_accepted: Callable[[str, str, Outgoing], None] | None = None

    @classmethod
    def with_controllers(cls) -> EmbeddedState:
        """A new disk on which api, scheduler and monitor have their users."""
        return cls(users={user: controller_permissions(user) for user in CONTROLLER_USERS})

    def waiting(self, queue: str) -> tuple[Delivery, ...]:
        """What waits in a queue or is kept in a stream, first to last; for tests and judge."""
        return tuple(self.queues[queue].waiting())

    def read_stream(self, name: str, offset: int = 0) -> tuple[Delivery, ...]:
        """All that a stream keeps from `offset` on."""
        stored = self.queues[name]
        found: list[Delivery] = []
        at = offset
        while (delivery := stored.read(at)) is not None:
            found.append(delivery)
            at = int(delivery.headers[OFFSET_HEADER]) + 1
        return tuple(found)
