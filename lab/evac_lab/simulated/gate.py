"""The lab's way to the simulated api: HTTP in memory, carried out inside the api's process.

When that process is killed in the middle of a request, the client sees what it would see of a dead
server: a lost connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import httpx2

from evac_lab.simulated.loop import SeededLoop
from evac_lab.simulated.process import SimulatedProcess

ADDRESS: Final = "http://evac.simulated"

App = Callable[[Any, Any, Any], Any]


class Gate:
    """An ASGI app that hands each request to the present life of the api."""

    def __init__(self, loop: SeededLoop, process: SimulatedProcess) -> None:
        self._loop = loop
        self._process = process
        self.app: App | None = None  # set by the api's process when it serves

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        life = self._process.process
        if self.app is None or not self._process.running:
            raise httpx2.ConnectError("the api is not running")
        request = self._loop.spawn(life, self.app(scope, receive, send), name="http request")
        died = asyncio.ensure_future(self._process.death())
        await asyncio.wait({request, died}, return_when=asyncio.FIRST_COMPLETED)
        if not request.done():
            raise httpx2.ReadError("the api died while it answered")
        died.cancel()
        request.result()

    def transport(self) -> httpx2.ASGITransport:
        return httpx2.ASGITransport(app=self)

    def client(self, token: str) -> httpx2.AsyncClient:
        """A client as any outside tool would have it."""
        return httpx2.AsyncClient(
            transport=self.transport(),
            base_url=ADDRESS,
            headers={"Authorization": f"Bearer {token}"},
            timeout=None,
        )
