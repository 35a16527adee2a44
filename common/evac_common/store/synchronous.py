"""aiosqlite without its thread: every call runs at once, in the loop's own thread.

For the simulator. A loop with virtual time cannot wait for a thread, and a result that arrives at a
moment of the thread's choosing would end determinism. With this connection a transaction needs no
turn of the loop at all, so nothing can happen between its statements; unless `connection` is given
calls of its own, which decide when each runs and what becomes of it: the simulated database.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Protocol, cast

import aiosqlite
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
    AsyncAdapt_aiosqlite_dbapi,
    SQLiteDialect_aiosqlite,
)
from sqlalchemy.util.concurrency import await_

from evac_common.store.engine import AT_ONCE

Call = tuple[asyncio.Future[Any] | None, Callable[[], Any]]


class Calls(Protocol):
    """Stands where aiosqlite keeps its work queue."""

    def put_nowait(self, call: Call) -> None: ...


class _AtOnce:
    """`put_nowait` returns when the call has run."""

    def put_nowait(self, call: Call) -> None:
        future, function = call
        try:
            result = function()
        except Exception as error:
            if future is None:
                raise
            future.set_exception(error)
        else:
            if future is not None:
                future.set_result(result)


class _NoThread:
    """Stands where aiosqlite keeps its worker thread."""

    daemon = True

    def start(self) -> None:
        """Nothing to start: `Calls` has no use for a worker."""


_AT_ONCE: Final = _AtOnce()


def open_database(path: str) -> sqlite3.Connection:
    """A connection that never waits for a lock: who holds one could not let go of it while this
    thread waits.

    Nothing is synced to disk: a simulated crash kills a service, not the machine that simulates it.
    """
    database = sqlite3.connect(path, timeout=0.0, isolation_level=None)
    database.execute("PRAGMA synchronous=OFF")
    return database


def connection(connector: Callable[[], sqlite3.Connection], calls: Calls) -> aiosqlite.Connection:
    """An aiosqlite connection that never starts a thread: await it to connect."""
    made = aiosqlite.Connection(connector, iter_chunk_size=64)
    vars(made)["_tx"] = calls
    vars(made)["_thread"] = _NoThread()
    return made


class _Cursor:
    """Makes one call of each statement, where SQLAlchemy's own for asyncio makes five."""

    server_side = False
    arraysize = 1

    def __init__(self, adapted: AsyncAdapt_aiosqlite_connection) -> None:
        self._adapted = adapted
        self._done: sqlite3.Cursor | None = None
        self._rows: deque[Any] = deque()

    @property
    def description(self) -> Any:
        return None if self._done is None else self._done.description

    @property
    def rowcount(self) -> int:
        return -1 if self._done is None else self._done.rowcount

    @property
    def lastrowid(self) -> int | None:
        return None if self._done is None else self._done.lastrowid

    def execute(self, operation: str, parameters: Any = None) -> None:
        self._call(partial(execute, operation, () if parameters is None else parameters))

    def executemany(self, operation: str, parameters: Any) -> None:
        self._call(partial(executemany, operation, parameters))

    def _call(self, function: Callable[..., tuple[sqlite3.Cursor, Sequence[Any]]]) -> None:
        client = cast(aiosqlite.Connection, self._adapted.driver_connection)
        future = asyncio.get_event_loop().create_future()
        if vars(client)["_connection"] is None:
            raise sqlite3.OperationalError("no active connection")  # a lost one, to SQLAlchemy
        vars(client)["_tx"].put_nowait((future, partial(function, client)))
        self._done, rows = await_(future)
        self._rows = deque(rows)

    def fetchone(self) -> Any:
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        count = min(self.arraysize if size is None else size, len(self._rows))
        return [self._rows.popleft() for _ in range(count)]

    def fetchall(self) -> Sequence[Any]:
        rows, self._rows = list(self._rows), deque()
        return rows

    def __iter__(self) -> Iterator[Any]:
        while self._rows:
            yield self._rows.popleft()

    def close(self) -> None:
        self._rows.clear()  # that is all there is: the statement was read to its end

    async def _async_soft_close(self) -> None:
        """Part of what SQLAlchemy asks of a cursor: its rows are here already."""


def execute(
    operation: str, parameters: Any, client: aiosqlite.Connection
) -> tuple[sqlite3.Cursor, Sequence[Any]]:
    """A statement and its rows. Named as the sqlite3 method that it stands for, as `Calls` see."""
    cursor = vars(client)["_connection"].execute(operation, parameters)
    return cursor, cursor.fetchall() if cursor.description else ()


def executemany(
    operation: str, parameters: Any, client: aiosqlite.Connection
) -> tuple[sqlite3.Cursor, Sequence[Any]]:
    return vars(client)["_connection"].executemany(operation, parameters), ()


class _Adapted(AsyncAdapt_aiosqlite_connection):
    __slots__ = ()

    _cursor_cls = cast(type[AsyncAdapt_aiosqlite_cursor], _Cursor)


class _Module(AsyncAdapt_aiosqlite_dbapi):
    def connect(self, *arguments: Any, **options: Any) -> AsyncAdapt_aiosqlite_connection:
        creator = options.pop("async_creator_fn")  # always given by `engine`
        return _Adapted(self, await_(creator(*arguments, **options)))


class Dialect(SQLiteDialect_aiosqlite):
    """SQLite over connections of this module."""

    driver = "evac"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> AsyncAdapt_aiosqlite_dbapi:
        return _Module(aiosqlite, sqlite3)


registry.register(AT_ONCE.replace("+", "."), __name__, Dialect.__name__)


def connect(path: str) -> aiosqlite.Connection:
    """An aiosqlite connection that never starts a thread and never suspends its caller."""
    return connection(lambda: open_database(path), _AT_ONCE)
