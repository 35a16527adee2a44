"""The service around the application: it serves, settles, listens, stops, and needs no thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from evac_api import service
from evac_api.settings import Settings
from evac_common.bus.admin import EmbeddedAdmin
from evac_common.bus.embedded import EmbeddedBroker, EmbeddedBus, EmbeddedState
from evac_common.bus.inbox import outgoing
from evac_common.bus.permissions import Permissions, TopicPermission
from evac_common.errors import SettingsRefused
from evac_common.messages import requests
from evac_common.messages.codec import Envelope
from evac_common.model.identity import API_USER
from evac_common.service.clock import SystemClock
from evac_common.store.engine import Store
from tests.unit.api.cluster import instance
from tests.unit.api.ports import free_port

FAST: dict[str, Any] = {"settle_s": 0.05, "poll_s": 0.02, "keepalive_s": 0.2}


@asynccontextmanager
async def serving(
    path: Path, *, state: EmbeddedState | None = None, port: int | None = None
) -> AsyncIterator[tuple[httpx2.AsyncClient, EmbeddedState]]:
    """The whole service on loopback, and a client with a token."""
    clock = SystemClock()
    store = Store.open(f"sqlite:///{path}", service="api", clock=clock)
    state = state or EmbeddedState.with_controllers()
    if state.listening is None:
        EmbeddedBroker(state)
    bus = EmbeddedBus(state, user=API_USER, clock=clock)
    port = port or free_port()
    chosen = Settings.load(**FAST, listen=f"127.0.0.1:{port}")
    parts: dict[str, Any] = {
        "clock": clock,
        "bus": bus,
        "store": store,
        "admin": EmbeddedAdmin(state),
        "secrets": None,
    }
    stop = asyncio.Event()
    app = service.create_app(chosen, **parts)
    token = await app.state.desk.tokens.issue(clock.new_id())
    running = asyncio.create_task(service.serve(chosen, **parts, stop=stop, app=app))
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False
    ) as http:
        try:
            await until_ready(http, running)
            yield http, state
        finally:
            stop.set()
            try:
                async with asyncio.timeout(10):
                    await running
            finally:
                await store.close()


async def until_ready(http: httpx2.AsyncClient, running: asyncio.Task[None]) -> None:
    async with asyncio.timeout(10):
        while True:
            assert not running.done(), running.exception()
            try:
                if (await http.get("/readyz")).status_code == 200:
                    return
            except httpx2.ConnectError:
                pass  # it does not listen yet
            await asyncio.sleep(0.02)


@pytest.fixture
def database(tmp_path: Path, migrated: bytes) -> Path:
    path = tmp_path / "evac.db"
    path.write_bytes(migrated)
    return path


async def test_it_serves_settles_and_publishes(database: Path) -> None:
    async with serving(database) as (http, state):
        await http.post("/v1/instances", json={"name": "a", **instance()})
        stopped = await http.post("/v1/instances/a/stop")
        operation = await http.get(f"{stopped.headers['location']}?wait=5")
        deleted = await http.delete("/v1/instances/a")
        gone = await http.get(f"{deleted.headers['location']}?wait=5")

        assert operation.json()["state"] == "succeeded"
        assert gone.json()["state"] == "succeeded"
        async with asyncio.timeout(5):
            while not any(
                "instance.deleted" in one.routing_key for one in state.read_stream("evac.events")
            ):
                await asyncio.sleep(0.02)


async def test_a_request_from_the_bus_is_carried_out(database: Path) -> None:
    async with serving(database) as (http, state):
        await http.post("/v1/instances", json={"name": "a", **instance()})
        message = requests.StopInstance(request_id="d" * 32, instance="a")
        envelope = Envelope(id="e" * 32, source="/tools", time=SystemClock().now())
        topics = {"evac.request": TopicPermission(write=".*")}
        state.users["observer"] = Permissions(
            configure="^$", write=r"^evac\.request$", read="^$", topics=topics
        )
        tool = EmbeddedBus(state, user="observer", clock=SystemClock())
        running = asyncio.create_task(tool.run())
        await tool.wait_connected()
        await tool.publish(outgoing(message, envelope))

        async with asyncio.timeout(5):
            while True:
                page = (await http.get("/v1/operations", params={"request_id": "d" * 32})).json()
                if page["items"] and page["items"][0]["state"] == "succeeded":
                    break
                await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_stopping_ends_streams_and_long_polls_at_once(database: Path) -> None:
    loop = asyncio.get_running_loop()
    async with serving(database) as (http, _):
        pending = (await http.post("/v1/cluster/arm", json={"reason": "over"})).json()
        headers = {"Accept": "text/event-stream"}
        streaming = asyncio.create_task(http.get("/v1/events", headers=headers))
        polling = asyncio.create_task(http.get(f"/v1/operations/{pending['id']}?wait=30"))
        await asyncio.sleep(0.3)  # both are open: nothing tells a client so
        began_s = loop.time()
    stream, poll = await asyncio.gather(streaming, polling)

    assert loop.time() - began_s < 4
    assert stream.text.startswith(": evac events")
    assert poll.json()["state"] == "pending"


async def test_an_address_that_is_taken_is_refused_by_name(database: Path) -> None:
    async with serving(database) as (http, _):
        with pytest.raises(ExceptionGroup) as caught:
            async with serving(database, port=http.base_url.port):
                pass  # pragma: no cover - it never becomes ready

    assert caught.value.subgroup(SettingsRefused) is not None
