from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from evac_api.service import create_app
from evac_api.settings import Settings
from evac_common.bus.admin import EmbeddedAdmin
from evac_common.bus.embedded import EmbeddedBroker, EmbeddedBus, EmbeddedState
from evac_common.model.identity import API_USER
from evac_common.service.clock import SystemClock
from evac_common.service.secrets import SecretBox
from evac_common.store.engine import Store
from evac_common.store.migrations import migrate
from tests.unit.api.cluster import Cluster


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty database, made once: migrating takes longer than most of these tests."""
    path = tmp_path_factory.mktemp("migrated") / "evac.db"
    migrate(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
async def cluster(tmp_path: Path, migrated: bytes) -> AsyncIterator[Cluster]:
    path = tmp_path / "evac.db"
    path.write_bytes(migrated)
    clock = SystemClock()
    store = Store.open(f"sqlite:///{path}", service="api", clock=clock)
    state = EmbeddedState.with_controllers()
    EmbeddedBroker(state)
    bus = EmbeddedBus(state, user=API_USER, clock=clock)
    settings = Settings(
        poll_s=0.02, wait_max_s=5, keepalive_s=0.2, nodes_bus_url="amqp://broker.example:5672/evac"
    )
    app = create_app(
        settings,
        clock=clock,
        bus=bus,
        store=store,
        admin=EmbeddedAdmin(state),
        secrets=SecretBox([SecretBox.new_key()]),
    )
    running = asyncio.create_task(bus.run())
    await bus.wait_connected()
    token = await app.state.desk.tokens.issue("tester")
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app),
        base_url="http://evac.example",
        headers={"Authorization": f"Bearer {token}"},
    ) as http:
        yield Cluster(app=app, store=store, broker=state, http=http, token=token)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await store.close()
