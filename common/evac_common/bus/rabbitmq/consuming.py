"""A subscription: a channel of its own on whatever connection there is, again after every loss."""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, FieldValue
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, MessageProcessError

from evac_common.bus.handling import verdict_of
from evac_common.bus.port import (
    OFFSET_HEADER,
    BusCounters,
    Delivery,
    Handler,
    Offset,
    Queue,
    Verdict,
)
from evac_common.bus.rabbitmq.arguments import declare_exchanges, declare_queue
from evac_common.bus.rabbitmq.calls import close_quietly, within
from evac_common.bus.rabbitmq.session import Session
from evac_common.bus.timings import BusTimings, Clock, backoff_s
from evac_common.errors import BusRefused, BusUnavailable, Unroutable


@dataclass(slots=True, eq=False)
class Subscription:
    """A wish to consume, kept over every loss of the connection."""

    queue: str
    declared: Queue | None
    handler: Handler
    prefetch: int
    offset: Offset | None
    timings: BusTimings
    clock: Clock
    counters: BusCounters
    log: Any
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    attached: bool = False
    cancelled: bool = False
    keeper: asyncio.Task[None] | None = None

    async def cancel(self) -> None:
        """Stop receiving; what is unsettled goes back to the queue."""
        self.cancelled = True
        if self.keeper is not None:
            self.keeper.cancel()

    def keep(self, session: Session) -> asyncio.Task[None]:
        """Stay subscribed for as long as this session lasts."""
        self.keeper = asyncio.get_running_loop().create_task(
            self._stay(session), name=f"consume {self.queue}", context=self.context.copy()
        )
        return self.keeper

    async def _stay(self, session: Session) -> None:
        failures = 0
        while True:
            ended = asyncio.Event()
            channel = session.consuming.channel()
            try:
                await self._attach(channel, ended)
                if failures:
                    self.log.info("consuming", queue=self.queue)
                failures = 0
                self.attached = True
                await ended.wait()
                self.log.warning("consumer cancelled by the broker", queue=self.queue)
            except (BusRefused, BusUnavailable, Unroutable) as error:
                if not failures:
                    self.log.warning("not consuming", queue=self.queue, why=str(error))
                failures += 1
            finally:
                self.attached = False
                await asyncio.shield(close_quietly(channel))
            await asyncio.sleep(backoff_s(failures, self.clock.jitter(), self.timings))

    async def _attach(self, channel: AbstractChannel, ended: asyncio.Event) -> None:
        async with within(self.timings.call_limit_s, f"consume {self.queue}"):
            await channel.initialize()
            channel.close_callbacks.add(lambda *_: ended.set())
            await channel.set_qos(prefetch_count=self.prefetch)
            if self.declared is not None:
                await declare_exchanges(channel)
                await declare_queue(channel, self.declared)
            underlay = await channel.get_underlay_channel()
            # aiormq 7 tells of a cancelled consumer; with an older one the regular count finds it.
            hooks = getattr(underlay, "on_consumer_cancel_callbacks", None)
            if hooks is not None:
                hooks.add(lambda _: ended.set())
            queue = await channel.get_queue(self.queue, ensure=False)
            arguments: dict[str, FieldValue] = (
                {} if self.offset is None else {OFFSET_HEADER: self.offset}
            )
            await queue.consume(partial(self._came), arguments=arguments)

    async def _came(self, message: AbstractIncomingMessage) -> None:
        if self.cancelled:
            return  # it goes back with the channel
        delivery = _delivery(message)
        verdict = await verdict_of(
            self.handler,
            delivery,
            queue=self.queue,
            timings=self.timings,
            counters=self.counters,
            log=self.log,
        )
        if self.offset is not None:
            self.offset = int(delivery.headers[OFFSET_HEADER]) + 1
        try:
            match verdict:
                case Verdict.ACK:
                    await message.ack()
                case Verdict.REJECT:
                    await message.reject(requeue=False)
                case Verdict.RETRY:
                    await message.reject(requeue=True)
        except (*CONNECTION_EXCEPTIONS, MessageProcessError):
            # The channel went away meanwhile: the broker has the message back and sends it again.
            self.log.debug("message not settled", queue=self.queue, message_id=delivery.message_id)


def _delivery(message: AbstractIncomingMessage) -> Delivery:
    headers = dict(message.headers)
    returns = headers.get("x-delivery-count", 1 if message.redelivered else 0)
    return Delivery(
        exchange=message.exchange or "",
        routing_key=message.routing_key or "",
        headers=headers,
        content_type=message.content_type,
        body=message.body,
        message_id=message.message_id,
        user_id=message.user_id,
        redelivered=bool(message.redelivered),
        returns=returns if isinstance(returns, int) else 0,
    )
