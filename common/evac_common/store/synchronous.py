"""aiosqlite without its thread: every call runs at once, in the loop's own thread.

For the simulator. A loop with virtual time cannot wait for a thread, and a result that arrives at a
moment of the thread's choosing would end determinism. With this connection a transaction needs no
turn of the loop at all, so nothing can happen between its statements.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Final

import aiosqlite

_Call = tuple[asyncio.Future[Any] | None, Callable[[], Any]]


class _AtOnce:
    """Stands where aiosqlite keeps its work queue: `put_nowait` returns when the call has run."""

    def put_nowait(self, call: _Call) -> None:
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
        """Nothing to start: `_AtOnce` has no use for a worker."""


_AT_ONCE: Final = _AtOnce()


def connect(path: str) -> aiosqlite.Connection:
    """An aiosqlite connection that never starts a thread and never suspends its caller.

    It never waits for a lock either: who holds one could not let go of it while this thread waits.
    Nothing is synced to disk: a simulated crash kills a service, not the machine that simulates it.
    """

    def open_database() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=0.0, isolation_level=None)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    connection = aiosqlite.Connection(open_database, iter_chunk_size=64)
    vars(connection)["_tx"] = _AT_ONCE
    vars(connection)["_thread"] = _NoThread()
    return connection
