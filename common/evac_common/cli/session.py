"""One invocation of `evac`: where it prints, what it may read, and the api it speaks to.

Commands are async functions; `main.run` sets the session, parses, and awaits the command. So the
same commands serve a shell, tests, and the simulator, which awaits them on its own loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Annotated

import httpx2
import typer

from evac_common.cli import config
from evac_common.cli.client import Client
from evac_common.cli.output import Output


@dataclass(slots=True, kw_only=True)
class Session:
    """`transport` replaces the network: `httpx2.ASGITransport(app)` calls an api in here."""

    out: Output
    environment: Mapping[str, str]
    transport: httpx2.AsyncBaseTransport | None = None
    url: str | None = None
    _client: Client | None = field(default=None, init=False)

    @property
    def api(self) -> Client:
        """Opened at first use: help pages need neither address nor token."""
        if self._client is None:
            found = config.access(self.environment, self.url)
            self._client = Client(found, self.transport)
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.__aexit__(None, None, None)
            self._client = None


CURRENT: ContextVar[Session] = ContextVar("session of evac")


def session() -> Session:
    return CURRENT.get()


def api() -> Client:
    return CURRENT.get().api


def out() -> Output:
    return CURRENT.get().out


Json = Annotated[bool, typer.Option("--json", help="Print JSON, as the api gives it.")]
Reason = Annotated[
    str, typer.Option("--reason", "-r", help="Why; recorded with your name, shown by explain.")
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for the outcome.")]
Timeout = Annotated[
    str, typer.Option("--timeout", help="Wait at most so long: 90s, 15min, 2h.", metavar="TIME")
]
Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
