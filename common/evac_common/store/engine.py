"""Open the database and run transactions on it.

    store = Store.open("postgresql://...", service="scheduler", clock=clock)
    async with store.transaction() as tx:
        if await tx.change(update(...).where(...)) != 1:
            ...                                   # somebody else was first: read again
        await tx.emit(NodeDown(...))              # event row + outbox row, same transaction

PostgreSQL: READ COMMITTED, compare-and-set statements. SQLite: WAL, `synchronous=FULL`,
`BEGIN IMMEDIATE`, one process. Errors of the drivers become evac's (failures.py).

Inside a transaction nothing is awaited but its own statements. Every call is bounded in time: on
PostgreSQL by the server's own limits and, when the server does not answer at all, by cutting the
connection; on SQLite by its wait for the lock.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Literal, Self

import aiosqlite
import psycopg
from sqlalchemy import URL, Connection, event, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from evac_common.errors import StoreUnavailable
from evac_common.store.failures import translated
from evac_common.store.transaction import Clock, Transaction
from evac_common.store.urls import async_url

Connect = Callable[[str], Awaitable[aiosqlite.Connection]]  # path → connection, not yet prepared

SCHEMA: Final = "0006"  # the newest migration that this code relies on
CONNECT_LIMIT_S: Final = 5
LOCK_LIMIT_S: Final = 5
STATEMENT_LIMIT_S: Final = 10
ANSWER_LIMIT_S: Final = 12  # the server's own limit did not end it: cut the connection
IDLE_LIMIT_S: Final = 30  # inside a transaction; a relay holds its rows while it publishes
POOL_SIZE: Final = 8

#: SQLAlchemy's driver for connections that the caller makes; `synchronous` registers it.
AT_ONCE: Final = "sqlite+evac"

_BEGIN: Final = "evac_begin"  # execution option: how SQLite begins


class Store:
    """One service's access to the database. Survives any loss of the database by itself."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        service: str,
        instance: str,
        clock: Clock,
        raw: list[aiosqlite.Connection],
        immediate: bool,
    ) -> None:
        self.service = service
        self.clock = clock
        self.source = f"/evac/{service}/{instance}"  # CloudEvents source of everything it writes
        self.outbox_wake = asyncio.Event()  # set after a commit that wrote outbox rows
        self._engine = engine
        self._raw = raw  # SQLite connections, for `abandon`
        self._immediate = immediate
        self._abandoned = False
        self._writer = engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        if self.dialect == "postgresql":
            self._reader = engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        else:
            self._reader = engine.execution_options(**{_BEGIN: "BEGIN"})

    @classmethod
    def open(
        cls,
        url: str,
        *,
        service: str,
        clock: Clock,
        connect: Connect | None = None,
        instance: str | None = None,
    ) -> Self:
        """Prepare a store. It connects at the first use, so a database may be away here.

        `instance` names this replica in the source of its messages (default: the machine's name).
        `connect` makes SQLite connections (`synchronous.connect` for the simulator).
        Raises SettingsRefused for an address that is neither PostgreSQL nor a SQLite file.
        """
        address = async_url(url)
        raw: list[aiosqlite.Connection] = []
        if address.get_backend_name() == "sqlite":
            engine = _sqlite(address, connect, raw)
        else:
            engine = _postgresql(address, service)
        return cls(
            engine,
            service=service,
            instance=instance or platform.node(),
            clock=clock,
            raw=raw,
            immediate=connect is not None,
        )

    @property
    def dialect(self) -> Literal["sqlite", "postgresql"]:
        return "sqlite" if self._engine.dialect.name == "sqlite" else "postgresql"

    async def close(self) -> None:
        """Give every connection back. The store may be used again afterwards."""
        if not self._abandoned:
            await self._engine.dispose()
            if not self._immediate:
                await self._threads_ended()
            self._raw.clear()

    async def _threads_ended(self) -> None:
        """Wait for SQLite's threads. That of a cancelled call may still be busy, and would tell its
        result to a loop that is closed by then.
        """
        deadline_s = asyncio.get_running_loop().time() + LOCK_LIMIT_S
        while any(vars(connection)["_thread"].is_alive() for connection in self._raw):
            if asyncio.get_running_loop().time() > deadline_s:
                return  # a daemon thread: it ends with the process
            await asyncio.sleep(0.005)

    def abandon(self) -> None:
        """What `kill -9` of the service does to its SQLite connections, for the simulator.

        Open transactions are rolled back and the files closed, now, without a turn of the loop and
        without running anything of the service. Who still holds this store gets StoreUnavailable.
        Only for a store opened with `synchronous.connect`.
        """
        assert self._immediate, "connections with threads or sockets cannot be dropped at once"
        self._abandoned = True
        for connection in self._raw:
            database: sqlite3.Connection | None = vars(connection)["_connection"]
            vars(connection)["_connection"] = None  # later calls: "no active connection"
            vars(connection)["_running"] = False
            if database is not None:
                database.rollback()  # close alone would wait for statements not read to their end
                database.close()
        self._raw.clear()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Read and write; committed at the end of the block, rolled back when it raises.

        StoreUnavailable from the end of the block means *unknown*: read again before acting.
        """
        async with self._connection(self._writer) as connection:
            transaction = self._over(connection, writable=True)
            with self._bounded(connection), translated("begin"):
                await connection.begin()
            yield transaction
            if transaction.failed:
                raise RuntimeError(
                    "an error was caught inside its transaction: nothing is committed"
                )
            with self._bounded(connection), translated("commit", committing=True):
                await connection.commit()
        if transaction.wrote_outbox:
            self.outbox_wake.set()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """Read one snapshot of the database. Writing statements are refused."""
        async with self._connection(self._reader) as connection:
            with self._bounded(connection), translated("begin"):
                await connection.begin()
            yield self._over(connection, writable=False)

    async def ping(self) -> None:
        """Raises StoreUnavailable unless the database answers and its tables are new enough."""
        async with self.read() as transaction:
            found = await transaction.scalar(text("SELECT version_num FROM alembic_version"))
        if found is None or found < SCHEMA:
            raise StoreUnavailable("run `evac-api migrate`", tables=found, needed=SCHEMA)

    def _over(self, connection: AsyncConnection, *, writable: bool) -> Transaction:
        return Transaction(
            connection,
            service=self.service,
            source=self.source,
            clock=self.clock,
            bounded=self._bounded,
            writable=writable,
        )

    @contextmanager
    def _bounded(self, connection: AsyncConnection) -> Iterator[None]:
        """Cut the connection when the call in this block is not answered in time."""
        driver = None
        if self.dialect == "postgresql" and not connection.invalidated and not connection.closed:
            pooled = connection.sync_connection
            driver = pooled.connection.driver_connection if pooled is not None else None
        if not isinstance(driver, psycopg.AsyncConnection):
            yield
            return
        with _cut_after(driver, ANSWER_LIMIT_S):
            yield

    @asynccontextmanager
    async def _connection(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """A connection of the pool; whatever it has not committed at the end is rolled back."""
        if self._abandoned:
            raise StoreUnavailable("this store was abandoned")
        with translated("connect"):
            connection = await engine.connect()
        try:
            yield connection
        finally:
            await self._release(connection)

    async def _release(self, connection: AsyncConnection) -> None:
        try:
            with self._bounded(connection):
                await connection.rollback()
        except (exc.SQLAlchemyError, OSError):
            # The server rolls back when the connection is gone, and whoever used it has its answer
            # already, or the error that led here.
            await connection.invalidate()
        finally:
            await connection.close()


def _sqlite(address: URL, connect: Connect | None, raw: list[aiosqlite.Connection]) -> AsyncEngine:
    path = str(address.database)

    async def creator() -> aiosqlite.Connection:
        if connect is None:
            return await _threaded(path, raw)
        connection = await connect(path)
        await _prepare_sqlite(connection, wait=False)
        raw[:] = [other for other in raw if vars(other)["_connection"] is not None]
        raw.append(connection)
        return connection

    engine = create_async_engine(
        address if connect is None else address.set(drivername=AT_ONCE),
        async_creator=creator,
        pool_timeout=LOCK_LIMIT_S,
        pool_reset_on_return=None,  # `_release` rolls back already
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _postgresql(address: URL, service: str) -> AsyncEngine:
    engine = create_async_engine(
        address,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=LOCK_LIMIT_S,
        pool_use_lifo=True,
        hide_parameters=True,  # secrets and bodies stay out of error texts
        connect_args=_postgresql_arguments(service),
    )
    event.listen(engine.sync_engine, "checkout", _check_postgresql)
    return engine


async def _threaded(path: str, raw: list[aiosqlite.Connection]) -> aiosqlite.Connection:
    connection = aiosqlite.connect(path, isolation_level=None)
    thread = vars(connection)["_thread"]
    thread.daemon = True  # a forgotten connection must not keep the process alive
    raw[:] = [other for other in raw if vars(other)["_thread"].is_alive()]
    try:
        await connection
        await _prepare_sqlite(connection, wait=True)
    except BaseException:  # whoever wanted it was cancelled: nobody else would end its thread
        connection.stop()
        raise
    finally:
        raw.append(connection)
    return connection


async def _prepare_sqlite(connection: aiosqlite.Connection, *, wait: bool) -> None:
    waiting = (f"busy_timeout={LOCK_LIMIT_S * 1000}", "synchronous=FULL") if wait else ()
    for setting in (*waiting, "journal_mode=WAL", "foreign_keys=ON"):
        async with connection.execute(f"PRAGMA {setting}"):
            pass


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


def _postgresql_arguments(service: str) -> dict[str, Any]:
    limits = {
        "statement_timeout": STATEMENT_LIMIT_S * 1000,
        "lock_timeout": LOCK_LIMIT_S * 1000,
        "idle_in_transaction_session_timeout": IDLE_LIMIT_S * 1000,
        "timezone": "UTC",
    }
    return {
        "connect_timeout": CONNECT_LIMIT_S,
        "application_name": f"evac-{service}",
        "options": " ".join(f"-c {name}={value}" for name, value in limits.items()),
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": ANSWER_LIMIT_S * 1000,
    }


def _check_postgresql(dbapi_connection: Any, record: Any, proxy: Any) -> None:
    """Before a pooled connection is used: does the server still answer on it? Else take another."""
    if record.info.setdefault("used", False) is False:
        record.info["used"] = True  # just connected
        return
    try:
        with _cut_after(dbapi_connection.driver_connection, CONNECT_LIMIT_S):
            dbapi_connection.autocommit = True
            cursor = dbapi_connection.cursor()
            cursor.execute("SELECT 1")
            cursor.close()
            dbapi_connection.autocommit = False
    except psycopg.Error as error:
        raise exc.InvalidatePoolError from error


@contextmanager
def _cut_after(driver: psycopg.AsyncConnection[Any], limit_s: float) -> Iterator[None]:
    timer = asyncio.get_running_loop().call_later(limit_s, _cut, driver)
    try:
        yield
    finally:
        timer.cancel()


def _cut(driver: psycopg.AsyncConnection[Any]) -> None:
    """End a connection under a call that waits on it; the call fails with a lost connection."""
    try:
        duplicate = os.dup(driver.pgconn.socket)
    except (psycopg.Error, OSError):
        return  # it is gone already
    with socket.socket(fileno=duplicate) as connection:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the peer was faster
