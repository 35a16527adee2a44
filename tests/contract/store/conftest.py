"""Every test of this folder runs on SQLite, and on PostgreSQL where it is installed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from evac_common.store.engine import Store
from evac_common.store.migrations import migrate
from evac_common.store.roles import ROLES, set_password
from evac_lab.real.servers import PostgreSQL, missing_programs
from tests.contract.store.database import PASSWORD, Database, SetClock


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
    url = asyncio.run(server.create_database("template_evac"))
    migrate(url)
    for service in ROLES:
        set_password(url, service, PASSWORD)
    return "template_evac"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sqlite") / "evac.db"
    migrate(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def address(request: pytest.FixtureRequest) -> str:
    """A migrated, empty database of this test's own."""
    if request.param == "sqlite":
        path: Path = request.getfixturevalue("tmp_path") / "evac.db"
        path.write_bytes(request.getfixturevalue("sqlite_template"))
        return f"sqlite:///{path}"
    copied: str = request.getfixturevalue("postgresql_address")
    return copied


@pytest.fixture
def postgresql_address(server: PostgreSQL, template: str) -> Iterator[str]:
    name = f"evac_{uuid.uuid4().hex}"
    yield asyncio.run(server.create_database(name, template=template))
    asyncio.run(server.drop_database(name))


@pytest.fixture
async def database(address: str, clock: SetClock) -> AsyncIterator[Database]:
    async with AsyncExitStack() as stack:
        yield Database(address, clock, stack)


@pytest.fixture
async def postgresql(postgresql_address: str, clock: SetClock) -> AsyncIterator[Database]:
    """For tests of what SQLite does not have; mark them `real`."""
    async with AsyncExitStack() as stack:
        yield Database(postgresql_address, clock, stack)


@pytest.fixture
async def scheduler(database: Database) -> Store:
    return database.store("scheduler")


@pytest.fixture
async def monitor(database: Database) -> Store:
    return database.store("monitor")
