"""aiosqlite without its thread: every call runs at once, in the loop's own thread.

For the simulator. A loop with virtual time cannot wait for a thread, and a result that arrives at a
moment of the thread's choosing would end determinism. With this connection a transaction needs no
turn of the loop at all, so nothing can happen between its statements; unless `connection` is given
calls of its own, which decide when each runs and what becomes of it: the simulated database.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Final, Protocol

import aiosqlite

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


def connect(path: str) -> aiosqlite.Connection:
    """An aiosqlite connection that never starts a thread and never suspends its caller."""
    return connection(lambda: open_database(path), _AT_ONCE)
