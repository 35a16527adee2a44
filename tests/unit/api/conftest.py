from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from evac_common.store.migrations import migrate
from tests.unit.api.cluster import Cluster, open_cluster


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
    url = f"sqlite:///{path}"
    async with open_cluster(url, url) as opened:
        yield opened
