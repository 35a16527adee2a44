"""One life of a bus's connections: it begins connected, ends lost, and is never repaired.

Publishing and consuming have a connection each: a broker in alarm stops reading from connections
that publish, and acks must not wait behind that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import aio_pika
from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from evac_common.bus.port import Outgoing
from evac_common.bus.rabbitmq.calls import close_quietly, within
from evac_common.bus.rabbitmq.publishing import Publisher
from evac_common.bus.timings import BusTimings
from evac_common.bus.topology import CANARY_EXCHANGE
from evac_common.errors import BusRefused, BusUnavailable, Unroutable
from evac_common.messages.registry import Family

#: The library reports each failed attempt as an error; our supervisor says it once, and why.
_LIBRARY_LOGS: Final = ("aiormq.connection", "aiormq.channel", "aio_pika.connection")


class Session:
    """Both connections, what is proven about them, and the moment they are lost."""

    def __init__(
        self,
        publishing: AbstractConnection,
        consuming: AbstractConnection,
        *,
        user: str,
        user_id: str | None,
        timings: BusTimings,
    ) -> None:
        self.consuming = consuming
        self.lost = asyncio.Event()
        self.why = ""
        self.canary_at_s: float | None = None
        self.since_s = asyncio.get_running_loop().time()
        self._publishing = publishing
        self._user, self._timings = user, timings
        self.publisher = Publisher(publishing, user_id=user_id, timings=timings)
        self._canary_publisher = Publisher(publishing, user_id=user, timings=timings)
        self._spare: AbstractChannel | None = None
        for connection in (publishing, consuming):
            connection.close_callbacks.add(self._closed)

    @classmethod
    async def open(
        cls, url: str, *, user: str, user_id: str | None, timings: BusTimings
    ) -> Session:
        """Raises BusUnavailable, or BusRefused when the broker does not accept the user."""
        for name in _LIBRARY_LOGS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        publishing = await _connect(url, f"{user} publishing", timings)
        try:
            consuming = await _connect(url, f"{user} consuming", timings)
        except BaseException:
            await close_quietly(publishing)
            raise
        return cls(publishing, consuming, user=user, user_id=user_id, timings=timings)

    def lose(self, why: str) -> None:
        """Give these connections up; the supervisor makes new ones."""
        if not self.lost.is_set():
            self.why = why
            self.lost.set()

    async def close(self) -> None:
        self.lose("closed")
        self.publisher.stop()
        self._canary_publisher.stop()
        await asyncio.gather(close_quietly(self._publishing), close_quietly(self.consuming))

    def _closed(self, _: Any, error: BaseException | None) -> None:
        self.lose(f"{type(error).__name__} {error}".rstrip() if error else "connection closed")

    # -- proofs that the broker still works -------------------------------------------------------

    async def fly_canaries(self, canary_id: str) -> None:
        """Send a message to ourselves again and again; give up when none comes back any more."""
        limit_s = self._timings.call_limit_s
        name, key = f"{CANARY_EXCHANGE}.{self._user}.{canary_id}", f"{self._user}.{canary_id}"
        channel = self.consuming.channel()
        async with within(limit_s, "declare the canary's queue"):
            await channel.initialize()
            exchange = await channel.declare_exchange(
                CANARY_EXCHANGE, ExchangeType.TOPIC, durable=True
            )
            queue = await channel.declare_queue(
                name, exclusive=True, auto_delete=True, arguments={"x-max-length": 8}
            )
            await queue.bind(exchange, routing_key=key)
            await queue.consume(self._canary_came, no_ack=True)
        canary = Outgoing(
            exchange=CANARY_EXCHANGE,
            routing_key=key,
            headers={},
            content_type="text/plain",
            body=b"canary",
            message_id=canary_id,
        )

        async def fly() -> None:
            await self._canary_publisher.publish(canary)

        await self._prove(fly)

    async def _canary_came(self, message: AbstractIncomingMessage) -> None:
        self.canary_at_s = asyncio.get_running_loop().time()

    async def ask_again_and_again(self, queue: str | None) -> None:
        """For a user that may declare nothing: ask the broker something, any answer is a proof."""

        async def ask() -> None:
            try:
                async with within(self._timings.call_limit_s, "ask the broker"):
                    channel = await self.spare_channel()
                    if queue is not None:
                        await channel.declare_queue(queue, passive=True)
                    else:
                        await channel.get_exchange(Family.HEARTBEAT.exchange)
            except (Unroutable, BusRefused):
                pass  # "there is no such thing" is an answer too
            self.canary_at_s = asyncio.get_running_loop().time()

        await self._prove(ask)

    async def _prove(self, once: Callable[[], Awaitable[None]]) -> None:
        while True:
            with suppress(BusUnavailable):  # judged by time, below
                await once()
            now_s = asyncio.get_running_loop().time()
            if now_s - (self.canary_at_s or self.since_s) > self._timings.canary_limit_s:
                raise BusUnavailable("no canary came back through the broker")
            await asyncio.sleep(self._timings.canary_every_s)

    async def spare_channel(self) -> AbstractChannel:
        """A channel on which a failed question harms nothing. The caller limits the time."""
        if self._spare is None or self._spare.is_closed:
            self._spare = self.consuming.channel()
            await self._spare.initialize()
        return self._spare

    async def consumers_of(self, queue: str) -> int:
        """How many consumers the broker knows for a queue."""
        async with within(self._timings.call_limit_s, "count consumers"):
            channel = await self.spare_channel()
            declared = await channel.declare_queue(queue, passive=True)
            return declared.declaration_result.consumer_count or 0


class _Connection(aio_pika.Connection):
    def __del__(self) -> None:
        """Nothing: whoever opened it closes it.

        The library would start a task here, while objects are being collected, perhaps in no loop.
        """


async def _connect(url: str, name: str, timings: BusTimings) -> AbstractConnection:
    async with within(timings.call_limit_s, "connect"):
        return await aio_pika.connect(
            with_heartbeat(url, timings.heartbeat_s),
            client_properties={"connection_name": name},
            connection_class=_Connection,
        )


def with_heartbeat(url: str, heartbeat_s: int) -> str:
    """The URL with our heartbeat: the library's default notices silence only after 183 s."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query)) | {"heartbeat": str(heartbeat_s)}
    return urlunsplit(parts._replace(query=urlencode(query)))
