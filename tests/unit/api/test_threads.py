"""On virtual time a thread can neither be waited for nor be repeated: no request may need one."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx2
import pytest

from evac_api import service
from evac_api.settings import Settings
from evac_common.bus.admin import EmbeddedAdmin
from evac_common.bus.embedded import EmbeddedBroker, EmbeddedBus, EmbeddedState
from evac_common.model.identity import API_USER
from evac_common.service.clock import SystemClock
from evac_common.store import synchronous
from evac_common.store.engine import Store
from tests.unit.api.cluster import instance

READS = (
    "/v1/nodes",
    "/v1/instances/a",
    "/v1/instances/a/explain",
    "/v1/events",
    "/v1/operations",
    "/v1/cluster",
    "/readyz",
    "/livez",
    "/metrics",
    "/openapi.json",
)


async def requests(http: httpx2.AsyncClient) -> list[int]:
    """The status of one request of every sort."""
    answers = [
        await http.post("/v1/nodes", json={"name": "n1", "vcpus": 4, "memory_mib": 4096}),
        await http.post("/v1/apply", json={"instances": {"a": instance()}}),
        await http.post("/v1/instances/a/stop"),
        *[await http.get(path) for path in READS],
        await http.post("/v1/nodes/n1/fence", json={}),
        await http.get("/v1/nothing"),
    ]
    return [answer.status_code for answer in answers]


async def test_no_request_needs_a_thread(
    tmp_path: Path, migrated: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a request wanted a thread")

    path = tmp_path / "evac.db"
    path.write_bytes(migrated)
    clock = SystemClock()
    store = Store.open(f"sqlite:///{path}", service="api", clock=clock, connect=synchronous.connect)
    state = EmbeddedState.with_controllers()
    EmbeddedBroker(state)
    bus = EmbeddedBus(state, user=API_USER, clock=clock)
    running = asyncio.create_task(bus.run())
    app = service.create_app(
        Settings(), clock=clock, bus=bus, store=store, admin=EmbeddedAdmin(state), secrets=None
    )
    await app.state.queues.step()
    token = await app.state.desk.tokens.issue("tester")
    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)
    before = threading.active_count()

    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app),
        base_url="http://evac.example",
        headers={"Authorization": f"Bearer {token}"},
    ) as http:
        statuses = await requests(http)

    assert statuses == [201, 200, 202, *[200] * len(READS), 422, 404]
    assert threading.active_count() == before
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await store.close()
