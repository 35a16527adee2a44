"""One connection to the simulated database: what its client believes, and what the server holds."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import aiosqlite

from evac_common.store import synchronous
from evac_common.store.engine import ANSWER_LIMIT_S, CONNECT_LIMIT_S, IDLE_LIMIT_S, LOCK_LIMIT_S
from evac_common.store.synchronous import Call
from evac_lab.scenario.timeline import DatabaseState
from evac_lab.simulated import telling as letters

if TYPE_CHECKING:
    from evac_lab.simulated.database import SimulatedDatabase

_CLOSING: Final = frozenset({"close", "close_and_stop"})  # of sqlite3 and of aiosqlite
# Calls that go to the server and come back; the others are the driver's own.
_TRIPS: Final = frozenset({"execute", "executemany", "executescript", "commit", "rollback"})


_ROUNDING_S: Final = 1e-6  # a timer is due when the sum of two floats is, not at the limit itself


class Lost(sqlite3.OperationalError):
    """The connection ended under a call. SQLAlchemy knows it by these words."""

    def __init__(self, why: str) -> None:
        super().__init__(f"no active connection: {why}")


class Session:
    """Calls are carried out one after the other, each when the way and the server let it."""

    def __init__(self, database: SimulatedDatabase, *, owner: str, endpoint: str) -> None:
        self.owner, self.endpoint = owner, endpoint
        self.client: aiosqlite.Connection = synchronous.connection(self._connect, self)
        self._database = database
        self._server: sqlite3.Connection | None = None
        self._lost = False  # every later call of the client fails
        self._closed = False  # the client made its end of it
        self._calls: deque[Call] = deque()
        self._under_way: Call | None = None
        self._go_on: Callable[[], None] | None = None  # when the way is whole again
        self._patience: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._used_at_s = 0.0
        self._changes = 0  # of the server's count, at the last end of a transaction

    @property
    def in_transaction(self) -> bool:
        return self._server is not None and self._server.in_transaction

    # -- the driver's side -----------------------------------------------------------------------

    def put_nowait(self, call: Call) -> None:
        """A call of aiosqlite, in place of its thread's queue."""
        if self._under_way is None and not self._calls:
            self._begin(call)
        else:
            self._calls.append(call)

    def _begin(self, call: Call) -> None:
        self._under_way = call
        future, function = call
        if future is not None and future.cancelled():
            self._finish(None, None)
        elif _name(function) in _CLOSING and not isinstance(_of(function), sqlite3.Cursor):
            self._lost = self._closed = True
            self._drop_server()
            self._run_here(function)
        elif self._lost:
            self._finish(None, Lost("it was lost before"))
        elif function == self._connect or _name(function) in _TRIPS:
            self._to_server()
        else:
            self._run_here(function)

    def _run_here(self, function: Callable[[], Any]) -> None:
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - handed to whoever made the call
            self._finish(None, error)
        else:
            self._finish(result, None)

    def _finish(self, result: Any, error: BaseException | None) -> None:
        call, self._under_way = self._under_way, None
        self._stop_waiting()
        future = call[0] if call else None
        if future is not None and not future.done():
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
                future.exception()  # looked at: its process may be dead
        while self._calls and self._under_way is None:
            self._begin(self._calls.popleft())

    # -- the way to the server and back ----------------------------------------------------------

    def _to_server(self) -> None:
        outward, _ = self._database.passes(self.endpoint)
        if not outward:
            self._wait_for_way(self._to_server)
            return
        delay_s = self._database.delay_s()
        if delay_s > 0:
            self._stop_waiting()
            self._patience = self._later(delay_s, self._serve_now)
        else:
            self._serve()

    def _serve_now(self) -> None:
        self._patience = None
        self._serve()

    def _from_server(self, result: Any, error: BaseException | None) -> None:
        _, inward = self._database.passes(self.endpoint)
        if inward:
            self._finish(result, error)
        else:
            self._wait_for_way(lambda: self._from_server(result, error))

    def _wait_for_way(self, go_on: Callable[[], None]) -> None:
        first = self._go_on is None
        self._go_on = go_on
        if first:
            self._stop_timer()
            connecting = self._server is None
            limit_s = CONNECT_LIMIT_S if connecting else ANSWER_LIMIT_S
            self._patience = self._later(limit_s, self._give_up)

    def way_changed(self) -> None:
        go_on = self._go_on
        outward, inward = self._database.passes(self.endpoint)
        if go_on is not None and self._under_way is not None:
            self._stop_waiting()
            go_on()
        if outward and self._lost:
            self._drop_server()  # the server learns now that its client is gone
        elif not (outward and inward):
            self.watch_idle()

    def _give_up(self) -> None:
        """No answer in time: the client's end is closed; the server may not hear of it."""
        self._lose(f"no answer in {ANSWER_LIMIT_S} s")

    def _lose(self, why: str) -> None:
        """The connection is lost under the present call, and for every later one."""
        self._lost = True
        outward, _ = self._database.passes(self.endpoint)
        if outward:
            self._drop_server()
        else:
            self.watch_idle()
        self._finish(None, Lost(why))

    # -- the server's side -----------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        self._server = self._database.open_file()
        return self._server

    def _serve(self) -> None:
        """The server carries the call out."""
        call = self._under_way
        assert call is not None, "only a call that is under way is served"
        if self._database.state is DatabaseState.OFF:
            self._lose("connection refused")
            return
        function = call[1]
        self._used_at_s = self._database.loop.true_time
        ends = _name(function) in {"commit", "rollback"}
        changed = ends and self._changed() and _name(function) == "commit"
        try:
            result = function()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                self._wait_for_lock(error)
            else:
                self._from_server(None, error)
            return
        except Exception as error:  # noqa: BLE001 - handed to whoever made the call
            self._from_server(None, error)
            return
        if ends:
            self._transaction_ended(committed=changed)
        if changed and self._loses_acknowledgement():
            return
        self._from_server(result, None)

    def _changed(self) -> bool:
        return self._server is not None and self._server.total_changes != self._changes

    def _transaction_ended(self, *, committed: bool) -> None:
        if self._server is not None:
            self._changes = self._server.total_changes
        if committed:
            self._database.telling.committed()
        self._database.lock_freed()

    def _loses_acknowledgement(self) -> bool:
        if not self._database.acknowledgements_to_lose:
            return False
        self._database.acknowledgements_to_lose -= 1
        self._database.telling.fault(letters.DATABASE, DatabaseState.LOSE_ACK.value)
        self._lost = True
        self._drop_server()
        self._finish(None, Lost("the connection ended after the commit"))
        return True

    def _wait_for_lock(self, error: sqlite3.OperationalError) -> None:
        if self not in self._database.lock_queue:
            self._database.lock_queue.append(self)
        if self._patience is None:
            self._patience = self._later(LOCK_LIMIT_S, lambda: self._lock_refused(error))

    def try_lock_again(self) -> None:
        """The lock may be free."""
        if self._under_way is not None and self._server is not None:
            self._serve()

    def _lock_refused(self, error: sqlite3.OperationalError) -> None:
        if self in self._database.lock_queue:
            self._database.lock_queue.remove(self)
        self._from_server(None, error)

    def set_readonly(self, readonly: bool) -> None:
        if self._server is not None:
            self._server.execute(f"PRAGMA query_only={'ON' if readonly else 'OFF'}")

    def end(self, why: str) -> None:
        """The server ends the connection, and what it had not committed."""
        self._lost = True
        self._drop_server()
        if self._under_way is not None:
            self._finish(None, Lost(why))

    def client_died(self) -> None:
        """The process is gone. On a way that is cut nobody tells the server."""
        self._lost = self._closed = True
        vars(self.client)["_connection"] = None  # nobody will close it any more
        self._calls.clear()
        self._under_way = None
        self._stop_waiting()
        outward, _ = self._database.passes(self.endpoint)
        if outward:
            self._drop_server()
        else:
            self.watch_idle()

    def watch_idle(self) -> None:
        """The client may not speak for long: end its session when it is idle in a transaction."""
        server = self._server
        if server is None or self._idle is not None:
            return
        due_s = self._used_at_s + IDLE_LIMIT_S - self._database.loop.true_time
        self._idle = self._later(max(0.0, due_s), self._end_if_idle)

    def _end_if_idle(self) -> None:
        self._idle = None
        server = self._server
        if server is None:
            return
        idle_s = self._database.loop.true_time - self._used_at_s
        if idle_s >= IDLE_LIMIT_S - _ROUNDING_S and (server.in_transaction or self._lost):
            self.end(f"idle in a transaction for {IDLE_LIMIT_S} s")
        elif server.in_transaction:
            self.watch_idle()

    def _drop_server(self) -> None:
        """The server's side is gone, and with it what was not committed."""
        server, self._server = self._server, None
        held = False
        if server is not None:
            held = server.in_transaction
            server.rollback()  # close alone would wait for statements not read to their end
            server.close()
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self in self._database.lock_queue:
            self._database.lock_queue.remove(self)
        if self._closed:
            self._database.forget(self)
        if held:
            self._database.lock_freed()

    # -- timers ----------------------------------------------------------------------------------

    def _later(self, delay_s: float, act: Callable[[], None]) -> asyncio.TimerHandle:
        """In no process: neither a kill nor a stop of the client keeps the server from its work."""
        return self._database.loop.call_later(delay_s, act, context=contextvars.Context())

    def _stop_timer(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _stop_waiting(self) -> None:
        self._stop_timer()
        self._go_on = None
        if self in self._database.lock_queue:
            self._database.lock_queue.remove(self)


def _name(function: Callable[[], Any]) -> str:
    """Of the sqlite3 method behind a call of aiosqlite."""
    return getattr(getattr(function, "func", function), "__name__", "")


def _of(function: Callable[[], Any]) -> Any:
    """The object that the method is of."""
    return getattr(getattr(function, "func", function), "__self__", None)
