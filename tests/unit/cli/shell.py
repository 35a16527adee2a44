"""`evac` as a person runs it, against an api in the same process."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import dataclass, field
from typing import Any

import httpx2
from rich.console import Console

from evac_common.cli.main import run
from evac_common.cli.output import Output
from evac_common.cli.session import Session
from tests.unit.api.cluster import Cluster


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Shell:
    transport: httpx2.AsyncBaseTransport | None
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, cluster: Cluster) -> Shell:
        environment = {
            "EVAC_URL": "http://evac.example",
            "EVAC_TOKEN": cluster.token,
            "EVAC_CONFIG": "/nonexistent/config.toml",
        }
        return cls(httpx2.ASGITransport(cluster.app), environment)

    async def __call__(self, *argv: str) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        consoles = [
            Console(file=file, width=200, highlight=False, soft_wrap=True) for file in (out, err)
        ]
        session = Session(
            out=Output(*consoles), environment=self.environment, transport=self.transport
        )
        code = await run(argv, session)
        return Ran(code, out.getvalue(), err.getvalue())

    async def ok(self, *argv: str) -> Ran:
        ran = await self(*argv)
        assert ran.code == 0, ran
        return ran


async def until_pending(cluster: Cluster, count: int = 1) -> list[dict[str, Any]]:
    """The pending operations, when there are so many."""
    async with asyncio.timeout(5):
        while True:
            page = await cluster.ok("GET", "/v1/operations?state=pending")
            if len(page["items"]) >= count:
                items: list[dict[str, Any]] = page["items"]
                return items
            await asyncio.sleep(0.01)
