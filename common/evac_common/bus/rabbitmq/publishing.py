"""Publishing over one connection: pipelined, every answer awaited, broken channels replaced."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import DeliveryError

from evac_common.bus.port import Outgoing
from evac_common.bus.rabbitmq.calls import close_quietly, in_our_words, within
from evac_common.bus.timings import IN_FLIGHT_MAX, BusTimings
from evac_common.errors import BusRefused


class _Lane:
    """A channel that is opened when needed, and again after it broke."""

    def __init__(
        self, connection: AbstractConnection, *, confirms: bool, close_after_s: float
    ) -> None:
        self._connection = connection
        self._confirms = confirms
        self._close_after_s = close_after_s
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._retired: set[asyncio.Task[None]] = set()

    async def channel(self) -> AbstractChannel:
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                channel = self._connection.channel(
                    publisher_confirms=self._confirms, on_return_raises=self._confirms
                )
                await channel.initialize()
                channel.close_callbacks.add(_say_refusal)
                self._channel = channel
            return self._channel

    def retire(self, channel: AbstractChannel) -> None:
        """Use it no more. Others may still await answers on it, so it is closed later."""
        if self._channel is channel:
            self._channel = None
            if not channel.is_closed:
                task = asyncio.get_running_loop().create_task(self._close_later(channel))
                self._retired.add(task)
                task.add_done_callback(self._retired.discard)

    async def _close_later(self, channel: AbstractChannel) -> None:
        await asyncio.sleep(self._close_after_s)
        await close_quietly(channel)

    def stop(self) -> None:
        for task in list(self._retired):
            task.cancel()


def _say_refusal(channel: AbstractChannel | None, error: BaseException | None) -> None:
    """A refused message closes its channel; of an unconfirmed one nobody else would ever hear."""
    if error is not None and isinstance(in_our_words(error, "publish"), BusRefused):
        structlog.get_logger().error("bus refused a message", why=str(error))


class Publisher:
    """`publish` over one connection that lives as long as it does. Errors as the port promises."""

    def __init__(
        self, connection: AbstractConnection, *, user_id: str | None, timings: BusTimings
    ) -> None:
        self._user_id = user_id
        self._limit_s: Final = timings.call_limit_s
        self._confirmed = _Lane(connection, confirms=True, close_after_s=self._limit_s)
        # Apart: a refused heartbeat must not take confirmed publishes down with its channel.
        self._fired = _Lane(connection, confirms=False, close_after_s=0.0)
        self._alone = _Lane(connection, confirms=True, close_after_s=0.0)
        self._one_alone = asyncio.Lock()
        self._in_flight = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def publish(self, message: Outgoing) -> None:
        what = f"publish to {message.exchange}"
        if not message.confirm:
            async with within(self._limit_s, what):
                await self._send(self._fired, message)
            return
        try:
            async with within(self._limit_s, what), self._in_flight:
                await self._send(self._confirmed, message)
        except BusRefused:
            # A refusal closes the channel, and all that is in flight on it ends with that error.
            # Whose fault it was shows when each is tried again alone.
            async with within(self._limit_s, what), self._one_alone:
                await self._send(self._alone, message)

    async def _send(self, lane: _Lane, message: Outgoing) -> None:
        channel = await lane.channel()
        try:
            exchange = await channel.get_exchange(message.exchange, ensure=False)
            await exchange.publish(
                self._amqp(message),
                message.routing_key,
                mandatory=message.mandatory and message.confirm,
            )
        except DeliveryError:
            raise  # the broker's answer: returned as unroutable, or no room; the channel is well
        except BaseException:
            lane.retire(channel)  # timed out, refused, lost: it is not trusted any more
            raise

    def _amqp(self, message: Outgoing) -> Message:
        return Message(
            message.body,
            headers=dict(message.headers),
            content_type=message.content_type,
            message_id=message.message_id,
            user_id=self._user_id,
            delivery_mode=(
                DeliveryMode.PERSISTENT if message.confirm else DeliveryMode.NOT_PERSISTENT
            ),
        )

    def stop(self) -> None:
        for lane in (self._confirmed, self._fired, self._alone):
            lane.stop()
