"""Tests that take `cluster` run on SQLite, and on PostgreSQL under the scheduler's role."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from evac_common.store.migrations import migrate
from evac_common.store.roles import ROLES, set_password
from evac_common.store.urls import blocking_url
from evac_lab.real.servers import PostgreSQL, missing_programs
from tests.unit.scheduler.cluster import Cluster

PASSWORD = "of-the-test"


@pytest.fixture(scope="session")
def server() -> Iterator[PostgreSQL]:
    if lacking := missing_programs():
        pytest.skip(f"PostgreSQL is not installed: apt-get install {' '.join(lacking)}")
    server = PostgreSQL()
    asyncio.run(server.start())
    yield server
    asyncio.run(server.discard())


@pytest.fixture(scope="session")
def template(server: PostgreSQL) -> str:
    """A migrated database, to be copied: copying is faster than migrating."""
    url = asyncio.run(server.create_database("template_scheduler"))
    migrate(url)
    set_password(url, "scheduler", PASSWORD)
    return "template_scheduler"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sqlite") / "evac.db"
    migrate(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def postgresql_url(server: PostgreSQL, template: str) -> Iterator[str]:
    name = f"evac_{uuid.uuid4().hex}"
    yield asyncio.run(server.create_database(name, template=template))
    asyncio.run(server.drop_database(name))


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.real, pytest.mark.slow])]
)
def urls(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The address for the rows of others, and the scheduler's own."""
    if request.param == "sqlite":
        path: Path = request.getfixturevalue("tmp_path") / "evac.db"
        path.write_bytes(request.getfixturevalue("sqlite_template"))
        return f"sqlite:///{path}", f"sqlite:///{path}"
    url: str = request.getfixturevalue("postgresql_url")
    own = blocking_url(url).set(username=ROLES["scheduler"], password=PASSWORD)
    return url, own.render_as_string(hide_password=False)


@pytest.fixture
async def cluster(urls: tuple[str, str]) -> AsyncIterator[Cluster]:
    made = Cluster(urls[0], role_url=urls[1])
    yield made
    await made.close()
