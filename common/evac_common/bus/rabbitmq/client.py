"""The bus of one service on RabbitMQ: its supervisor, and the port's verbs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog

from evac_common.bus.permissions import permissions_of
from evac_common.bus.port import (
    BusCounters,
    BusHealth,
    Consumer,
    Handler,
    Offset,
    Outgoing,
    Queue,
    QueueKind,
)
from evac_common.bus.rabbitmq.arguments import declare_exchanges, declare_queue
from evac_common.bus.rabbitmq.calls import close_quietly, within
from evac_common.bus.rabbitmq.consuming import Subscription
from evac_common.bus.rabbitmq.session import Session
from evac_common.bus.timings import BusTimings, Clock, backoff_s
from evac_common.errors import BusRefused, BusUnavailable, EvacError, Unroutable
from evac_common.model.identity import node_of_user


class RabbitBus:
    """A `Bus` on RabbitMQ. `url` carries user and password; it appears in no log and no error.

    `claims` is the user_id put on messages: by default the own user, as every adapter of evac does;
    a test may put another one, or none. `careful` refuses by itself what evac's permissions do not
    allow: a refusal by the broker closes the channel, with publishes pipelined behind it even the
    connection, and all that was in flight with it.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        timings: BusTimings | None = None,
        claims: str | None = "",
        careful: bool = True,
    ) -> None:
        self._url = url
        self._user = unquote(urlsplit(url).username or "")
        self._claims = self._user if claims == "" else claims
        self._rights = permissions_of(self._user) if careful else None
        self._clock = clock
        self._timings = timings or BusTimings()
        self._counters = BusCounters()
        self._log = structlog.get_logger().bind(bus_user=self._user)
        self._session: Session | None = None
        self._up = asyncio.Event()
        self._why: EvacError = BusUnavailable("not connected yet")
        self._canary_at_s: float | None = None
        self._subscriptions: dict[Subscription, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # of the present session

    @property
    def user(self) -> str:
        return self._user

    @property
    def counters(self) -> BusCounters:
        return self._counters

    def health(self) -> BusHealth:
        session = self._session
        if session is None:
            return BusHealth(
                connected=False,
                connected_since_s=None,
                canary_at_s=self._canary_at_s,
                detail=str(self._why),
            )
        return BusHealth(
            connected=True,
            connected_since_s=session.since_s,
            canary_at_s=session.canary_at_s or self._canary_at_s,
        )

    async def wait_connected(self) -> None:
        await self._up.wait()

    # -- supervisor -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, stay connected, connect again, until cancelled."""
        failures = 0
        while True:
            try:
                session = await Session.open(
                    self._url, user=self._user, user_id=self._claims, timings=self._timings
                )
            except (BusUnavailable, BusRefused) as error:
                self._why = error
                failures += 1
                if failures == 1:
                    self._log.warning("bus not connected", why=str(error))
            else:
                failures = 0
                await self._live(session)
            await asyncio.sleep(backoff_s(failures, self._clock.jitter(), self._timings))

    async def _live(self, session: Session) -> None:
        """Serve until the session is lost or the bus is cancelled; then nothing of it is left."""
        self._session = session
        self._log.info("bus connected")
        self._up.set()
        try:
            self._begin(session, "prove the bus", self._prove(session))
            self._begin(session, "count consumers", self._count_consumers(session))
            for subscription in self._subscriptions:
                self._keep(session, subscription)
            await session.lost.wait()
            self._log.warning("bus connection lost", why=session.why)
            self._counters.reconnects += 1
        finally:
            self._session = None
            self._why = BusUnavailable(session.why or "the bus was closed")
            self._canary_at_s = session.canary_at_s
            self._up.clear()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            closing = asyncio.get_running_loop().create_task(session.close())
            await asyncio.wait([closing, *tasks])

    def _begin(self, session: Session, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._watch(session, asyncio.get_running_loop().create_task(work, name=name))

    def _keep(self, session: Session, subscription: Subscription) -> None:
        self._watch(session, subscription.keep(session))

    def _watch(self, session: Session, task: asyncio.Task[None]) -> None:
        """A task of a session that fails ends the session: it is never left half alive."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                return
            error = task.exception()
            if error is not None:
                if not isinstance(error, EvacError):
                    self._log.error("bus task failed", task=task.get_name(), exc_info=error)
                session.lose(str(error))

        self._tasks.add(task)
        task.add_done_callback(ended)

    async def _prove(self, session: Session) -> None:
        if node_of_user(self._user) is None:
            await session.fly_canaries(self._clock.new_id())
        else:
            queues = [subscription.queue for subscription in self._subscriptions]
            await session.ask_again_and_again(queues[0] if queues else None)

    async def _count_consumers(self, session: Session) -> None:
        while True:
            await asyncio.sleep(self._timings.consumers_check_s)
            for subscription in list(self._subscriptions):
                declared = subscription.declared
                stream = declared is not None and declared.kind is QueueKind.STREAM
                if not subscription.attached or stream or subscription.offset is not None:
                    continue
                try:
                    count = await session.consumers_of(subscription.queue)
                except Unroutable:
                    count = 0
                if count == 0 and subscription.attached:
                    raise BusUnavailable("the broker lost a consumer", queue=subscription.queue)

    def _connected(self) -> Session:
        if self._session is None:
            kind = BusRefused if isinstance(self._why, BusRefused) else BusUnavailable
            raise kind(str(self._why))
        return self._session

    # -- the port ---------------------------------------------------------------------------------

    async def publish(self, message: Outgoing) -> None:
        try:
            if self._rights and not self._rights.may_publish(message.exchange, message.routing_key):
                raise BusRefused(
                    "publishing is not permitted",
                    user=self._user,
                    exchange=message.exchange,
                    routing_key=message.routing_key,
                )
            await self._connected().publisher.publish(message)
        except EvacError:
            self._counters.publish_failed += 1
            raise
        self._counters.published += 1
        exchanges = self._counters.by_exchange
        exchanges[message.exchange] = exchanges.get(message.exchange, 0) + 1

    async def declare(self, queues: Sequence[Queue]) -> None:
        channel = self._connected().consuming.channel()
        try:
            # Each queue is a few calls to the broker: the limit is for one of them, not for all.
            async with within(self._timings.call_limit_s, "declare exchanges"):
                await channel.initialize()
                await declare_exchanges(channel)
            for queue in queues:
                async with within(self._timings.call_limit_s, f"declare {queue.name}"):
                    await declare_queue(channel, queue)
        finally:
            await close_quietly(channel)

    async def delete_queue(self, name: str) -> None:
        channel = self._connected().consuming.channel()
        try:
            async with within(self._timings.call_limit_s, f"delete {name}"):
                await channel.initialize()
                await channel.queue_delete(name)
        finally:
            await close_quietly(channel)

    async def consume(
        self, queue: str | Queue, handler: Handler, *, prefetch: int, offset: Offset | None = None
    ) -> Consumer:
        subscription = Subscription(
            queue=queue.name if isinstance(queue, Queue) else queue,
            declared=queue if isinstance(queue, Queue) else None,
            handler=handler,
            prefetch=prefetch,
            offset=offset,
            timings=self._timings,
            clock=self._clock,
            counters=self._counters,
            log=self._log,
        )
        self._subscriptions[subscription] = None
        if self._session is not None:
            self._keep(self._session, subscription)
        return _Cancelling(self._subscriptions, subscription)


class _Cancelling:
    """The consumer as its owner sees it: cancelling it also forgets it."""

    def __init__(self, subscriptions: dict[Subscription, None], subscription: Subscription) -> None:
        self._subscriptions, self._subscription = subscriptions, subscription

    async def cancel(self) -> None:
        self._subscriptions.pop(self._subscription, None)
        await self._subscription.cancel()
