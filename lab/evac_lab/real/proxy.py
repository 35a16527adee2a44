"""A TCP relay whose cable can be pulled: bytes wait, nothing is closed, neither end is told.

While it is out, what was sent stays in buffers and goes on when it is put back, as with TCP over a
real cable. `connect` says how the far side is reached, so the relay may also be a way into a
network namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from evac_lab.real.reach import in_network

CHUNK_BYTES = 65536
PLUG_POLL_S = 0.02

Connect = Callable[[], Awaitable[socket.socket]]


def connector(address: str, port: int, *, network: str | None = None) -> Connect:
    """Connect to a server, from inside the named network namespace."""

    def connect() -> socket.socket:
        found = socket.create_connection((address, port), timeout=10.0)
        found.setblocking(False)
        return found

    async def far_end() -> socket.socket:
        return await in_network(network, connect)

    return far_end


class Proxy:
    """Listens on loopback while it is open; port 0 takes a free one."""

    def __init__(
        self, connect: Connect, *, port: int = 0, plugged: Callable[[], bool] = lambda: True
    ) -> None:
        """`plugged` is asked before every piece that is passed on, in either direction."""
        self._connect = connect
        self._plugged = plugged
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.port = port

    async def open(self) -> None:
        """Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The server's own task must not be cancelled (3.11 logs that as an error): ours may.
        link = asyncio.create_task(self._relay(reader, writer), name="relay a connection")
        self._links.add(link)
        await asyncio.wait({link})
        self._links.discard(link)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            await self._until_plugged()
            far_reader, far_writer = await asyncio.open_connection(sock=await self._connect())
            ends.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer), name="there")
                group.create_task(self._pump(far_reader, writer), name="back")
        except* OSError:
            await self._until_plugged()  # neither end learns of the other's while it is out
        finally:
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._until_plugged()
            writer.write(data)
            await writer.drain()
        await self._until_plugged()
        with contextlib.suppress(OSError):  # a peer that closed both ways already
            writer.write_eof()

    async def _until_plugged(self) -> None:
        while not self._plugged():
            await asyncio.sleep(PLUG_POLL_S)
