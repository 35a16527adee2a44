"""The lab's way to the simulated api: HTTP in memory, carried out inside an api's process.

A client goes to the first replica that runs and can be reached, as through a load balancer. When
that replica is killed in the middle of a request, the client sees what it would see of a dead
server: a lost connection; of one that hangs or is cut off: nothing, until its patience ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import httpx2

from evac_lab.simulated.loop import SeededLoop
from evac_lab.simulated.network import OPERATORS, Network
from evac_lab.simulated.process import SimulatedProcess

ADDRESS: Final = "http://evac.simulated"
PATIENCE_S: Final = 60.0  # longer than any long poll of the api

App = Callable[[Any, Any, Any], Any]


class Gate:
    """An ASGI app that hands each request to a living api."""

    def __init__(
        self, loop: SeededLoop, apis: Sequence[SimulatedProcess], network: Network
    ) -> None:
        self._loop = loop
        self._apis = apis
        self._network = network
        self._apps: dict[str, tuple[int, App]] = {}  # by replica: of which life, and its app

    def serve(self, name: str, app: App) -> None:
        """A replica's present life serves from now on."""
        life = next(api.process[1] for api in self._apis if api.name == name)
        self._apps[name] = (life, app)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        api, app = self._choose()
        request = self._loop.spawn(api.process, app(scope, receive, send), name="http request")
        died = asyncio.ensure_future(api.death())
        await asyncio.wait({request, died}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        lost = died.done()
        died.cancel()
        if not request.done() and lost:
            raise httpx2.ReadError("the api died while it answered")
        if not request.done() or not self._network.whole(api.name, OPERATORS):
            raise httpx2.ReadTimeout(f"no answer from {api.name} in {PATIENCE_S:.0f} s")
        request.result()

    def _choose(self) -> tuple[SimulatedProcess, App]:
        """Raises ConnectError when no replica can be reached."""
        for api in self._apis:
            life, app = self._apps.get(api.name, (0, None))
            if not api.running or not self._network.whole(api.name, OPERATORS):
                continue
            if app is not None and life == api.process[1]:
                return api, app
        raise httpx2.ConnectError("no api is running")

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
