"""The embedded broker: RabbitMQ's behaviour, as far as evac relies on it, in memory, on loop time.

All its work is synchronous. What it does later (handing out messages, expiring them) is scheduled
in an empty context: it belongs to no client's process.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from evac_common.bus.embedded.link import ClientEnd, Connection, Link, broker_time_s
from evac_common.bus.embedded.state import EmbeddedState, Stored, StoredQueue
from evac_common.bus.permissions import Permissions
from evac_common.bus.port import (
    OFFSET_HEADER,
    Delivery,
    Offset,
    Outgoing,
    Queue,
    QueueKind,
    Verdict,
)
from evac_common.bus.topics import matches
from evac_common.bus.topology import EXCHANGES
from evac_common.errors import BusRefused, BusUnavailable, QueueFull, Unroutable

Answer = Callable[[BusRefused | BusUnavailable | Unroutable | None], None]


@dataclass(slots=True, eq=False)
class _Attached:
    """A consumer, as the broker sees it."""

    id: int
    connection: Connection
    queue: str
    prefetch: int
    position: int = 0  # in a stream
    unsettled: dict[int, Stored] = field(default_factory=dict)

    @property
    def has_room(self) -> bool:
        return len(self.unsettled) < self.prefetch


class EmbeddedBroker:
    """A running broker. `stop` is a kill -9; a new broker on the same state is the restart."""

    def __init__(self, state: EmbeddedState) -> None:
        self.state = state
        self.alive = True
        self.alarmed = False
        self._alarm_changed_s = 0.0
        self._connections: dict[Connection, None] = {}
        self._consumers: dict[str, list[_Attached]] = {}  # by queue, the next to be served first
        self._attached: dict[int, _Attached] = {}
        self._owners: dict[str, Connection] = {}  # of exclusive queues
        self._blocked: list[tuple[Connection, Outgoing, str | None, Answer]] = []
        self._woken: dict[str, None] = {}
        self._ids = itertools.count(1)
        self._routes: dict[tuple[str, str], list[StoredQueue]] = {}
        self._permitted: dict[tuple[str, str, str], bool] = {}
        state.listening = self

    def stop(self) -> None:
        """Die at once: every connection is lost, and with it every exclusive queue."""
        if not self.alive:
            return
        for connection in list(self._connections):
            self.forget(connection)
            connection.broker_died()
        self.alive = False
        self._blocked.clear()
        if self.state.listening is self:
            self.state.listening = None

    def alarm(self, on: bool) -> None:
        """Memory or disk alarm: publishes hang; those that wait when it ends are done then."""
        self.alarmed = on
        self._alarm_changed_s = broker_time_s()
        if not on:
            blocked, self._blocked = self._blocked, []
            for connection, message, claims, answer in blocked:
                if connection.broker_open:
                    self.publish(connection, message, claims, answer)

    def publishing_works(self, link: Link) -> tuple[float, float | None]:
        """For how many seconds a publish over `link` may have been answered, and for how many it
        is not (None: it is).
        """
        now_s = broker_time_s()
        since_s = max(self._alarm_changed_s, link.changed_at_s)
        ill_s = [
            at_s
            for ill, at_s in (
                (self.alarmed, self._alarm_changed_s),
                (not link.up, link.changed_at_s),
            )
            if ill
        ]
        return now_s - since_s, now_s - min(ill_s) if ill_s else None

    # -- connections ------------------------------------------------------------------------------

    def connect(self, client: ClientEnd, user: str, link: Link) -> Connection:
        """Raises BusRefused for a user that does not exist."""
        if user not in self.state.users:
            raise BusRefused("the broker does not know this user", user=user)
        connection = Connection(self, client, link, user)
        self._connections[connection] = None
        return connection

    def close_user(self, user: str) -> None:
        """Close all connections of a user: it was deleted."""
        for connection in [each for each in self._connections if each.user == user]:
            self.forget(connection)
            connection.broker_died()

    def forget(self, connection: Connection) -> None:
        """A connection is gone: its messages go back, its exclusive queues are deleted."""
        self._connections.pop(connection, None)
        for consumer in list(self._attached.values()):
            if consumer.connection is connection:
                self._detach(consumer)
        for name in [name for name, owner in self._owners.items() if owner is connection]:
            self._drop(name)

    # -- publishing -------------------------------------------------------------------------------

    def publish(
        self, connection: Connection, message: Outgoing, claims: str | None, answer: Answer
    ) -> None:
        """Route a message and call `answer` with None or the error; while alarmed, only later."""
        if self.alarmed:
            self._blocked.append((connection, message, claims, answer))
            return
        try:
            self._accept(connection, message, claims)
        except (BusRefused, BusUnavailable, Unroutable) as error:
            answer(error)
        else:
            answer(None)

    def _accept(self, connection: Connection, message: Outgoing, claims: str | None) -> None:
        user = connection.user
        if claims is not None and claims != user:
            raise BusRefused("user_id is not the connection's user", user=user, user_id=claims)
        if not self._may_publish(user, message.exchange, message.routing_key):
            raise BusRefused(
                "publishing is not permitted",
                user=user,
                exchange=message.exchange,
                routing_key=message.routing_key,
            )
        if message.exchange not in self.state.exchanges:
            raise Unroutable("the exchange does not exist", exchange=message.exchange)
        targets = self._route(message.exchange, message.routing_key)
        if not targets:
            raise Unroutable(exchange=message.exchange, routing_key=message.routing_key)
        delivery = Delivery(
            exchange=message.exchange,
            routing_key=message.routing_key,
            headers=dict(message.headers),
            content_type=message.content_type,
            body=message.body,
            message_id=message.message_id,
            user_id=claims,
        )
        full = [queue.queue.name for queue in targets if not self._put(queue, delivery)]
        if full:
            raise QueueFull(queues=full)
        if self.state.on_accepted is not None:
            self.state.on_accepted(user, connection.link.name, message)

    def _may_publish(self, user: str, exchange: str, routing_key: str) -> bool:
        key = (user, exchange, routing_key)
        if key not in self._permitted:
            if len(self._permitted) > 10_000:
                self._permitted.clear()
            self._permitted[key] = self._rights(user).may_publish(exchange, routing_key)
        return self._permitted[key]

    def _rights(self, user: str) -> Permissions:
        found = self.state.users.get(user)
        if found is None:
            raise BusRefused("the broker does not know this user", user=user)
        return found

    def users_changed(self) -> None:
        """Permissions were written: forget what was derived from them."""
        self._permitted.clear()

    def _route(self, exchange: str, routing_key: str) -> list[StoredQueue]:
        key = (exchange, routing_key)
        if key not in self._routes:
            if len(self._routes) > 10_000:
                self._routes.clear()
            self._routes[key] = [
                stored
                for stored in self.state.queues.values()
                if any(
                    bound == exchange and matches(pattern, routing_key)
                    for bound, pattern in stored.bindings
                )
            ]
        return self._routes[key]

    def _put(self, stored: StoredQueue, delivery: Delivery) -> bool:
        """Add a message to a queue; False when the queue is full and refuses."""
        now_s = broker_time_s()
        queue = stored.queue
        match queue.kind:
            case QueueKind.STREAM:
                stored.append(delivery, now_s)
            case QueueKind.QUORUM if len(stored) >= queue.length_max:
                return False
            case _:
                if len(stored) >= queue.length_max:
                    stored.take()  # drop-head: the oldest gives way
                stored.add(delivery, now_s)
                if queue.message_ttl_s is not None and queue.dead_letter_exchange is not None:
                    self._later(queue.message_ttl_s, partial(self._expire, queue.name))
        self._wake(queue.name)
        return True

    # -- queues -----------------------------------------------------------------------------------

    def declare(self, connection: Connection, queues: Sequence[Queue]) -> None:
        """Declare the exchanges and these queues. Raises BusRefused."""
        rights = self._rights(connection.user)
        for name in (*EXCHANGES, *(queue.name for queue in queues)):
            if not rights.may_configure(name):
                raise BusRefused("declaring is not permitted", user=connection.user, name=name)
        self.state.exchanges.update(dict.fromkeys(EXCHANGES))
        for queue in queues:
            self._declare(connection, rights, queue)
        self._routes.clear()
        for stored in self.state.queues.values():
            stuck, stored.stuck = stored.stuck, []
            for delivery in stuck:
                self._dead_letter(stored, delivery)

    def _declare(self, connection: Connection, rights: Permissions, queue: Queue) -> None:
        stored = self.state.queues.get(queue.name)
        if stored is not None:
            owner = self._owners.get(queue.name)
            if owner is not None and owner is not connection:
                raise BusRefused("the queue belongs to another connection", queue=queue.name)
            if replace(queue, bindings=()) != replace(stored.queue, bindings=()):
                raise BusRefused("the queue exists with other arguments", queue=queue.name)
        dead = queue.dead_letter_exchange
        if dead is not None and not (rights.may_read(queue.name) and rights.may_write(dead)):
            raise BusRefused("dead-lettering is not permitted", queue=queue.name, exchange=dead)
        for binding in queue.bindings:
            if not rights.may_bind(queue.name, binding.exchange, binding.routing_key):
                raise BusRefused("binding is not permitted", queue=queue.name, binding=binding)
        if stored is None:
            stored = self.state.queues[queue.name] = StoredQueue(queue)
            if queue.kind is QueueKind.EXCLUSIVE:
                self._owners[queue.name] = connection
        stored.bindings.update(
            {(binding.exchange, binding.routing_key): None for binding in queue.bindings}
        )

    def delete_queue(self, connection: Connection, name: str) -> None:
        """Remove a queue with all that is in it; a missing one is no fault. Raises BusRefused."""
        if not self._rights(connection.user).may_configure(name):
            raise BusRefused("deleting is not permitted", user=connection.user, queue=name)
        if name in self.state.queues:
            self._drop(name)

    def _drop(self, name: str) -> None:
        del self.state.queues[name]
        self._owners.pop(name, None)
        self._routes.clear()
        for consumer in self._consumers.pop(name, []):
            self._attached.pop(consumer.id)
            connection = consumer.connection
            if connection.broker_open:
                connection.to_client(partial(connection.client.consumer_gone, consumer.id))

    # -- consuming --------------------------------------------------------------------------------

    def new_id(self) -> int:
        return next(self._ids)

    def subscribe(
        self,
        connection: Connection,
        consumer_id: int,
        queue: str,
        prefetch: int,
        offset: Offset | None,
    ) -> None:
        """Attach a consumer. Raises BusRefused, or Unroutable when there is no such queue."""
        if not self._rights(connection.user).may_read(queue):
            raise BusRefused("reading is not permitted", user=connection.user, queue=queue)
        stored = self.state.queues.get(queue)
        if stored is None:
            raise Unroutable("the queue does not exist", queue=queue)
        owner = self._owners.get(queue)
        if owner is not None and owner is not connection:
            raise BusRefused("the queue belongs to another connection", queue=queue)
        if (offset is not None) != (stored.queue.kind is QueueKind.STREAM):
            raise BusRefused("an offset is for streams, and streams need one", queue=queue)
        consumer = _Attached(consumer_id, connection, queue, prefetch)
        if offset is not None:
            begin: dict[Offset, int] = {"first": 0, "next": stored.next_offset}
            consumer.position = begin.get(offset, offset if isinstance(offset, int) else 0)
        self._consumers.setdefault(queue, []).append(consumer)
        self._attached[consumer.id] = consumer
        self._wake(queue)

    def unsubscribe(self, connection: Connection, consumer_id: int) -> None:
        """Detach a consumer; its unsettled messages go back."""
        consumer = self._attached.get(consumer_id)
        if consumer is not None and consumer.connection is connection:
            self._detach(consumer)

    def settle(self, connection: Connection, consumer_id: int, tag: int, verdict: Verdict) -> None:
        """Carry out a verdict. A tag that is not known any more is no fault."""
        consumer = self._attached.get(consumer_id)
        if consumer is not None and consumer.connection is connection:
            self._settle(consumer, tag, verdict)

    def _settle(self, consumer: _Attached, tag: int, verdict: Verdict) -> None:
        stored = consumer.unsettled.pop(tag, None)
        if stored is None:
            return
        queue = self.state.queues[consumer.queue]
        if queue.queue.kind is not QueueKind.STREAM:
            match verdict:
                case Verdict.ACK:
                    pass
                case Verdict.REJECT:
                    self._dead_letter(queue, stored.delivery, reason="rejected")
                case Verdict.RETRY:
                    self._give_back(queue, stored)
        self._wake(consumer.queue)

    def _detach(self, consumer: _Attached) -> None:
        del self._attached[consumer.id]
        self._consumers[consumer.queue].remove(consumer)
        queue = self.state.queues[consumer.queue]
        if queue.queue.kind is not QueueKind.STREAM:
            for stored in consumer.unsettled.values():
                self._give_back(queue, stored)
        consumer.unsettled.clear()
        self._wake(consumer.queue)

    def _give_back(self, queue: StoredQueue, stored: Stored) -> None:
        stored.returns += 1
        limit = queue.queue.delivery_limit
        if limit is not None and stored.returns > limit:
            self._dead_letter(queue, stored.delivery, reason="delivery_limit")
        else:
            queue.put_back(stored)

    def _dead_letter(
        self, queue: StoredQueue, delivery: Delivery, *, reason: str | None = None
    ) -> None:
        exchange = queue.queue.dead_letter_exchange
        if exchange is None:
            return
        if reason is not None:
            death = {
                "x-first-death-queue": queue.queue.name,
                "x-first-death-reason": reason,
                "x-first-death-exchange": delivery.exchange,
            }
            headers = {**delivery.headers, **death, **_known_death(delivery)}
            delivery = replace(delivery, exchange=exchange, headers=headers)
        taken = [
            self._put(target, delivery) for target in self._route(exchange, delivery.routing_key)
        ]
        if not taken or not all(taken):
            queue.stuck.append(delivery)  # at least once: kept until somebody can take it

    # -- handing out ------------------------------------------------------------------------------

    def _later(self, delay_s: float, act: partial[None]) -> None:
        asyncio.get_running_loop().call_later(delay_s, act, context=contextvars.Context())

    def _wake(self, queue: str) -> None:
        """Hand out messages soon: never inside the call that brought them."""
        if self._consumers.get(queue) and queue not in self._woken:
            self._woken[queue] = None
            asyncio.get_running_loop().call_soon(
                self._hand_out, queue, context=contextvars.Context()
            )

    def _hand_out(self, name: str) -> None:
        self._woken.pop(name, None)
        stored, consumers = self.state.queues.get(name), self._consumers.get(name)
        if not self.alive or stored is None or not consumers:
            return
        if stored.queue.kind is QueueKind.STREAM:
            for consumer in consumers:
                while consumer.has_room:
                    found = stored.read(consumer.position)
                    if found is None:
                        break
                    offset = int(found.headers[OFFSET_HEADER])
                    consumer.position = offset + 1
                    self._deliver(consumer, Stored(offset, found))
            return
        self._expire(name)
        while len(stored):
            eligible = consumers[:1] if stored.queue.single_active_consumer else consumers
            ready = [consumer for consumer in eligible if consumer.has_room]
            if not ready:
                return
            # The least recently served of those with room: round robin.
            consumer = ready[0]
            if not stored.queue.single_active_consumer:
                consumers.remove(consumer)
                consumers.append(consumer)
            self._deliver(consumer, stored.take())

    def _deliver(self, consumer: _Attached, stored: Stored) -> None:
        tag = next(self._ids)
        consumer.unsettled[tag] = stored
        delivery = replace(stored.delivery, redelivered=stored.returns > 0, returns=stored.returns)
        connection = consumer.connection
        fate = connection.link.faults.delivering(consumer.queue, delivery)
        for delay_s in fate.delays_s:
            connection.to_client(
                partial(connection.client.delivered, consumer.id, tag, delivery), delay_s
            )
        if not fate.delays_s:
            self._later(0.0, partial(self._settle_lost, consumer, tag))

    def _settle_lost(self, consumer: _Attached, tag: int) -> None:
        if self.alive and consumer.queue in self.state.queues:
            self._settle(consumer, tag, Verdict.RETRY)

    def _expire(self, name: str) -> None:
        stored = self.state.queues.get(name)
        if stored is None or stored.queue.message_ttl_s is None:
            return
        now_s = broker_time_s()
        while (first := stored.first()) is not None and (first.expires_at_s or 0.0) <= now_s:
            self._dead_letter(stored, stored.take().delivery, reason="expired")

    def consumer_count(self, queue: str) -> int:
        return len(self._consumers.get(queue, ()))


def _known_death(delivery: Delivery) -> dict[str, str]:
    """The first death stays the first."""
    return {
        key: value for key, value in delivery.headers.items() if key.startswith("x-first-death-")
    }
