"""A database under test: stores under each service's role, and raw SQL as its owner."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, event

from evac_common.store.engine import Store
from evac_common.store.migrations import engine_for
from evac_common.store.roles import ROLES
from evac_common.store.urls import blocking_url

PASSWORD = "a secret/with:marks@%"  # what an address must quote


class SetClock:
    """Stands still until a test moves it; ids are real ones."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 1, 12, tzinfo=UTC)
        self.seconds = 0.0

    def now(self) -> datetime:
        return self.moment + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def new_id(self) -> str:
        return uuid.uuid4().hex

    def jitter(self) -> float:
        return 0.5


class Database:
    def __init__(self, url: str, clock: SetClock, stack: AsyncExitStack) -> None:
        self.url = url
        self.clock = clock
        self._stack = stack

    @property
    def dialect(self) -> str:
        return blocking_url(self.url).get_backend_name()

    def store(self, service: str) -> Store:
        """A store as the service has it: on PostgreSQL under its own role."""
        url = blocking_url(self.url)
        if self.dialect == "postgresql":
            url = url.set(username=ROLES[service], password=PASSWORD)
        store = Store.open(
            url.render_as_string(hide_password=False), service=service, clock=self.clock
        )
        self._stack.push_async_callback(store.close)
        return store

    @contextmanager
    def owner(self) -> Iterator[Connection]:
        """A transaction of the tables' owner, committed at the end: nobody may do more."""
        engine = engine_for(self.url)
        if self.dialect == "sqlite":
            event.listen(engine, "connect", _with_foreign_keys)
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()

    def sql(self, *statements: str) -> None:
        with self.owner() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def value(self, query: str) -> Any:
        with self.owner() as connection:
            return connection.exec_driver_sql(query).scalar()


def _with_foreign_keys(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys=ON").close()


def an_id(number: int) -> str:
    return f"{number:032x}"
