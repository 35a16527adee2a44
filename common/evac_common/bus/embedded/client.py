"""The bus of one service on the embedded broker."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from evac_common.bus.embedded.broker import Answer
from evac_common.bus.embedded.link import Act, Connection, Fate, Link
from evac_common.bus.embedded.state import EmbeddedState
from evac_common.bus.handling import verdict_of
from evac_common.bus.port import (
    OFFSET_HEADER,
    BusCounters,
    BusHealth,
    Consumer,
    Delivery,
    Handler,
    Offset,
    Outgoing,
    Queue,
)
from evac_common.bus.timings import IN_FLIGHT_MAX, BusTimings, Clock, backoff_s
from evac_common.errors import BusRefused, BusUnavailable, EvacError, Unroutable


@dataclass(slots=True, eq=False)
class _Subscription:
    """A wish to consume, kept over every loss of the connection."""

    bus: EmbeddedBus
    queue: str
    declared: Queue | None
    handler: Handler
    prefetch: int
    offset: Offset | None
    context: contextvars.Context
    consumer: int | None = None  # its id at the broker, while attached
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: asyncio.Task[None] | None = None
    running: dict[asyncio.Task[None], None] = field(default_factory=dict)

    async def cancel(self) -> None:
        """Stop receiving; what is unsettled goes back to the queue."""
        self.bus.drop(self)

    def stop(self) -> None:
        self.consumer = None
        for task in (*self.running, self.keeper):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self.running.clear()
        self.keeper = None


class EmbeddedBus:
    """A `Bus` on the embedded broker: connects to whatever broker listens on `state`.

    `claims` is the user_id put on messages: by default the own user, as every adapter of evac does;
    a test may put another one, or none.
    """

    def __init__(
        self,
        state: EmbeddedState,
        *,
        user: str,
        clock: Clock,
        link: Link | None = None,
        timings: BusTimings | None = None,
        claims: str | None = "",
    ) -> None:
        self._state, self._user, self._clock = state, user, clock
        self.link = link or Link()
        self._timings = timings or BusTimings()
        self._claims = user if claims == "" else claims
        self._counters = BusCounters()
        self._log = structlog.get_logger().bind(bus_user=user)
        self.context = contextvars.Context()  # of the task that runs the bus, once it does
        self._connection: Connection | None = None
        self._since_s: float | None = None
        self._why: EvacError = BusUnavailable("not connected yet")
        self._lost = asyncio.Event()
        self._up = asyncio.Event()
        self._pending: dict[asyncio.Future[None], None] = {}
        self._subscriptions: dict[_Subscription, None] = {}
        self._attached: dict[int, _Subscription] = {}
        self._in_flight = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._canary_at_s: float | None = None

    @property
    def user(self) -> str:
        return self._user

    @property
    def counters(self) -> BusCounters:
        return self._counters

    def health(self) -> BusHealth:
        return BusHealth(
            connected=self._connection is not None,
            connected_since_s=self._since_s,
            canary_at_s=self._canary(),
            detail="" if self._connection is not None else str(self._why),
        )

    async def wait_connected(self) -> None:
        await self._up.wait()

    async def run(self) -> None:
        """Connect, stay connected, connect again, until cancelled."""
        self.context = contextvars.copy_context()
        failures = 0
        try:
            while True:
                try:
                    self._connect()
                    failures = 0
                    await self._lost.wait()
                except (BusUnavailable, BusRefused) as error:
                    failures += 1
                    if failures == 1:
                        self._log.warning("bus not connected", why=str(error))
                    self._why = error
                await asyncio.sleep(backoff_s(failures, self._clock.jitter(), self._timings))
        finally:
            self.abort()

    def abort(self) -> None:
        """Close this end at once, as the kernel does for a killed process. Idempotent."""
        connection = self._connection
        self._disconnected("the bus was closed")
        if connection is not None:
            connection.abort()

    def freeze(self) -> None:
        """The process is stopped (SIGSTOP): its sockets stay, and nobody speaks on them."""
        if self._connection is not None:
            self._connection.freeze()

    def thaw(self) -> None:
        """The process goes on."""
        if self._connection is not None:
            self._connection.thaw()

    def _connect(self) -> None:
        broker = self._state.listening
        if broker is None or not self.link.up:
            raise BusUnavailable("the broker does not answer")
        self._lost.clear()
        self._connection = broker.connect(self, self._user, self.link)
        self._since_s = self._clock.monotonic()
        self._up.set()
        self._log.info("bus connected")
        for subscription in self._subscriptions:
            self._keep(subscription)

    # -- what a service asks ----------------------------------------------------------------------

    async def publish(self, message: Outgoing) -> None:
        connection = self._connected()
        if not message.confirm:
            self._fire(connection, message)
            return
        future = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._timings.call_limit_s), self._in_flight:
                self._send(self._connected(), message, future)
                await future
        except TimeoutError as error:
            self._counters.publish_failed += 1
            raise BusUnavailable("no confirmation in time", exchange=message.exchange) from error
        except (BusUnavailable, BusRefused, Unroutable) as error:
            self._counters.publish_failed += 1
            if isinstance(error, BusRefused):
                self._channel_closed(error)
            raise
        finally:
            self._pending.pop(future, None)
        self._count(message)

    async def declare(self, queues: Sequence[Queue]) -> None:
        connection = self._connected()
        wanted = tuple(queues)
        await self._call(lambda: connection.broker.declare(connection, wanted))

    async def delete_queue(self, name: str) -> None:
        connection = self._connected()
        await self._call(lambda: connection.broker.delete_queue(connection, name))

    async def consume(
        self, queue: str | Queue, handler: Handler, *, prefetch: int, offset: Offset | None = None
    ) -> Consumer:
        subscription = _Subscription(
            bus=self,
            queue=queue.name if isinstance(queue, Queue) else queue,
            declared=queue if isinstance(queue, Queue) else None,
            handler=handler,
            prefetch=prefetch,
            offset=offset,
            context=contextvars.copy_context(),
        )
        self._subscriptions[subscription] = None
        if self._connection is not None:
            self._keep(subscription)
        return subscription

    def drop(self, subscription: _Subscription) -> None:
        """Forget a subscription, here and at the broker."""
        self._subscriptions.pop(subscription, None)
        connection, consumer = self._connection, subscription.consumer
        if connection is not None and consumer is not None:
            self._attached.pop(consumer, None)
            connection.to_broker(partial(connection.broker.unsubscribe, connection, consumer))
        subscription.stop()

    # -- publishing -------------------------------------------------------------------------------

    def _send(
        self, connection: Connection, message: Outgoing, future: asyncio.Future[None]
    ) -> None:
        fate = self.link.faults.publishing(message)
        self._pending[future] = None

        def answer(error: EvacError | None) -> None:
            # One that is "unroutable" only to a message that may be so is no error at all.
            told = None if isinstance(error, Unroutable) and not message.mandatory else error
            if fate.answered and connection.broker_open:
                connection.to_client(partial(_resolve, future, told))

        self._post(connection, message, fate, answer)

    def _fire(self, connection: Connection, message: Outgoing) -> None:
        def answer(error: EvacError | None) -> None:
            if isinstance(error, BusRefused):
                connection.to_client(partial(self._channel_closed, error))

        self._post(connection, message, self.link.faults.publishing(message), answer)
        self._count(message)

    def _post(self, connection: Connection, message: Outgoing, fate: Fate, answer: Answer) -> None:
        act = partial(connection.broker.publish, connection, message, self._claims, answer)
        for delay_s in fate.delays_s:
            if delay_s > 0:
                connection.to_broker_late(act, delay_s)
            else:
                connection.to_broker(act)

    def _count(self, message: Outgoing) -> None:
        self._counters.published += 1
        exchanges = self._counters.by_exchange
        exchanges[message.exchange] = exchanges.get(message.exchange, 0) + 1

    def _channel_closed(self, error: BusRefused) -> None:
        """A refusal closes the channel: the outcome of all that was in flight on it is unknown."""
        self._log.error("bus refused a message", why=str(error))
        for future in list(self._pending):
            _resolve(future, BusUnavailable("the channel was closed by another refused message"))

    # -- connection -------------------------------------------------------------------------------

    def _connected(self) -> Connection:
        if self._connection is None:
            kind = BusRefused if isinstance(self._why, BusRefused) else BusUnavailable
            raise kind(str(self._why))
        return self._connection

    async def _call(self, act: Act) -> None:
        """Carry out `act` at the broker, within the time limit of a call."""
        connection = self._connected()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def at_broker() -> None:
            error: EvacError | None = None
            try:
                act()
            except (BusRefused, Unroutable) as refused:
                error = refused
            connection.to_client(partial(_resolve, done, error))

        self._pending[done] = None
        connection.to_broker(at_broker)
        try:
            async with asyncio.timeout(self._timings.call_limit_s):
                await done
        except TimeoutError as error:
            raise BusUnavailable("the broker did not answer in time") from error
        finally:
            self._pending.pop(done, None)

    def lost(self, connection: Connection, why: str) -> None:
        """The connection is gone (called by its end)."""
        if connection is self._connection:
            self._log.warning("bus connection lost", why=why)
            self._counters.reconnects += 1
            self._disconnected(why)

    def _disconnected(self, why: str) -> None:
        self._canary_at_s = self._canary()
        self._connection, self._since_s = None, None
        self._why = BusUnavailable(why)
        self._up.clear()
        self._lost.set()
        self._attached.clear()
        for future in list(self._pending):
            _resolve(future, BusUnavailable(f"outcome unknown: {why}"))
        for subscription in self._subscriptions:
            subscription.stop()

    def _canary(self) -> float | None:
        """When a canary sent every few seconds would last have come back; worked out, not sent."""
        connection, since_s = self._connection, self._since_s
        if connection is None or since_s is None:
            return self._canary_at_s
        well_for_s, ill_for_s = connection.broker.publishing_works(self.link)
        now_s = self._clock.monotonic()
        until_s = now_s if ill_for_s is None else now_s - ill_for_s
        if until_s < since_s:
            return None
        every_s = self._timings.canary_every_s
        tick_s = since_s + (until_s - since_s) // every_s * every_s
        return tick_s if ill_for_s is not None else max(tick_s, now_s - well_for_s)

    # -- consuming --------------------------------------------------------------------------------

    def _keep(self, subscription: _Subscription) -> None:
        subscription.keeper = asyncio.get_running_loop().create_task(
            self._stay_subscribed(subscription),
            name=f"consume {subscription.queue}",
            context=subscription.context.copy(),
        )

    async def _stay_subscribed(self, subscription: _Subscription) -> None:
        """Subscribe, and again whenever the broker cancels, while this connection lasts."""
        failures = 0
        while (connection := self._connection) is not None:
            try:
                await self._subscribe(connection, subscription)
                if failures:
                    self._log.info("consuming", queue=subscription.queue)
                failures = 0
                await subscription.changed.wait()
            except (BusRefused, BusUnavailable, Unroutable) as error:
                if not failures:
                    self._log.warning("not consuming", queue=subscription.queue, why=str(error))
                failures += 1
            subscription.changed.clear()
            await asyncio.sleep(backoff_s(failures, self._clock.jitter(), self._timings))

    async def _subscribe(self, connection: Connection, subscription: _Subscription) -> None:
        consumer = connection.broker.new_id()

        def act() -> None:
            if subscription.declared is not None:
                connection.broker.declare(connection, (subscription.declared,))
            connection.broker.subscribe(
                connection, consumer, subscription.queue, subscription.prefetch, subscription.offset
            )

        subscription.consumer = consumer
        self._attached[consumer] = subscription
        try:
            await self._call(act)
        except EvacError:
            subscription.consumer = None
            self._attached.pop(consumer, None)
            raise

    def consumer_gone(self, consumer: int) -> None:
        subscription = self._attached.pop(consumer, None)
        if subscription is not None:
            self._log.warning("consumer cancelled by the broker", queue=subscription.queue)
            subscription.consumer = None
            subscription.changed.set()

    def delivered(self, consumer: int, tag: int, delivery: Delivery) -> None:
        """A message arrived: handle it in a task of its own."""
        connection, subscription = self._connection, self._attached.get(consumer)
        if connection is None or subscription is None:
            return  # it goes back to the queue with its consumer
        task = asyncio.get_running_loop().create_task(
            self._handle(connection, subscription, consumer, tag, delivery),
            name=f"handle a message of {subscription.queue}",
            context=subscription.context.copy(),
        )
        subscription.running[task] = None
        task.add_done_callback(partial(_forget, subscription))

    async def _handle(
        self,
        connection: Connection,
        subscription: _Subscription,
        consumer: int,
        tag: int,
        delivery: Delivery,
    ) -> None:
        verdict = await verdict_of(
            subscription.handler,
            delivery,
            queue=subscription.queue,
            timings=self._timings,
            counters=self._counters,
            log=self._log,
        )
        if subscription.offset is not None:
            subscription.offset = int(delivery.headers[OFFSET_HEADER]) + 1
        connection.to_broker(partial(connection.broker.settle, connection, consumer, tag, verdict))


def _forget(subscription: _Subscription, task: asyncio.Task[None]) -> None:
    subscription.running.pop(task, None)


def _resolve(future: asyncio.Future[None], error: EvacError | None) -> None:
    if future.done():
        return  # timed out, or answered twice
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # looked at: who waits gets it, and a killed process waits no more
