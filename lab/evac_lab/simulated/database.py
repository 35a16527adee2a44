"""The database of the simulated cluster: SQLite behind a server that can fail as PostgreSQL does.

Every service talks to it over connections of its own. While all is well a call runs at once, so a
transaction takes no turn of the loop. A server that is off, slow or read-only, or a way that is
cut, makes calls fail or wait; then transactions of several services overlap, and the server does
what PostgreSQL's settings of `store/engine.py` make it do: a lock is waited for LOCK_LIMIT_S, a
session that is idle inside a transaction for IDLE_LIMIT_S is ended, an answer is waited for
ANSWER_LIMIT_S.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

import aiosqlite

from evac_common.store import synchronous
from evac_common.store.engine import Connect
from evac_lab.scenario.timeline import DATABASE, DatabaseState
from evac_lab.simulated import telling as letters
from evac_lab.simulated.loop import SeededLoop
from evac_lab.simulated.network import Network
from evac_lab.simulated.session import Session
from evac_lab.simulated.telling import Telling

SLOW_S: Final = (0.02, 0.3)  # one answer of a slow server, drawn between these


class SimulatedDatabase:
    """The server and its disk. `connector(owner)` is what a process's store connects with."""

    def __init__(self, path: Path, *, loop: SeededLoop, network: Network, telling: Telling) -> None:
        self.loop = loop
        self.telling = telling
        self.path = str(path)
        self.state = DatabaseState.ON
        self.acknowledgements_to_lose = 0
        self.lock_queue: list[Session] = []  # who waits to write, first come first served
        self._network = network
        self._sessions: dict[Session, None] = {}
        self._watched: dict[str, None] = {}  # endpoints
        self._saved: sqlite3.Connection | None = None
        self._generation = 0  # how often it was restored

    # -- what a scenario may do ------------------------------------------------------------------

    def turn(self, state: DatabaseState, times: int = 1) -> None:
        """What a line of the time line says."""
        match state:
            case DatabaseState.SAVE:
                self._save()
                return
            case DatabaseState.RESTORE:
                self._restore()
            case DatabaseState.LOSE_ACK:
                self.acknowledgements_to_lose += times
                return  # counted when one is lost
            case DatabaseState.ON:
                self.acknowledgements_to_lose = 0
                self._become(state)
                self.telling.well(letters.DATABASE)
                return
            case _:
                self._become(state)
        self.telling.fault(letters.DATABASE, state.value)

    def _become(self, state: DatabaseState) -> None:
        self.state = state
        for session in list(self._sessions):
            if state is DatabaseState.OFF:
                session.end("the server was shut down")
            else:
                session.set_readonly(state is DatabaseState.READONLY)

    def _save(self) -> None:
        self._saved = sqlite3.connect(":memory:")
        with sqlite3.connect(self.path) as source:
            source.backup(self._saved)
        source.close()

    def _restore(self) -> None:
        """Put the saved content back, as another database. Raises RuntimeError without one."""
        if self._saved is None:
            raise RuntimeError("database restore: nothing was saved before")
        for session in list(self._sessions):
            session.end("the server was shut down to restore a backup")
        self._generation += 1
        with sqlite3.connect(self.path) as disk:
            self._saved.backup(disk)
        disk.close()
        # What PostgreSQL's system identifier and timeline are: it says that this is another one.
        self.identity_file.write_text(f"restored-{self._generation}", encoding="utf-8")
        self.telling.restored()

    @property
    def identity_file(self) -> Path:
        """Beside the database: written by whoever restores it, read by evac's own code."""
        return Path(f"{self.path}.identity")

    # -- what a process asks ---------------------------------------------------------------------

    def connector(self, owner: str, endpoint: str) -> Connect:
        """Connections of one process, over its endpoint's way."""

        async def connect(path: str) -> aiosqlite.Connection:
            session = Session(self, owner=owner, endpoint=endpoint)
            self._sessions[session] = None
            return await session.client

        if endpoint not in self._watched:
            self._watched[endpoint] = None
            self._network.watch(endpoint, DATABASE, lambda: self._way_changed(endpoint))
        return connect

    def open_file(self) -> sqlite3.Connection:
        database = synchronous.open_database(self.path)
        if self.state is DatabaseState.READONLY:
            database.execute("PRAGMA query_only=ON")
        return database

    def passes(self, endpoint: str) -> tuple[bool, bool]:
        return self._network.passes(endpoint, DATABASE)

    def delay_s(self) -> float:
        if self.state is not DatabaseState.SLOW:
            return 0.0
        return self.loop.random.uniform(*SLOW_S)

    def in_transaction(self, owner: str) -> bool:
        """Whether the process is in the middle of one, as the server sees it."""
        return any(session.in_transaction for session in self._of(owner))

    def forget(self, session: Session) -> None:
        self._sessions.pop(session, None)

    def lock_freed(self) -> None:
        """A transaction ended: those who wait for the lock try again, until one has it."""
        while self.lock_queue:
            first = self.lock_queue.pop(0)
            first.try_lock_again()
            if first.in_transaction or first in self.lock_queue:
                return

    # -- what happens to processes ---------------------------------------------------------------

    def died(self, owner: str) -> None:
        """The kernel closed the process's sockets; the server hears of it if the way is whole."""
        for session in self._of(owner):
            session.client_died()

    def froze(self, owner: str) -> None:
        """The process was stopped, perhaps inside a transaction."""
        for session in self._of(owner):
            session.watch_idle()

    def _of(self, owner: str) -> list[Session]:
        return [session for session in self._sessions if session.owner == owner]

    def _way_changed(self, endpoint: str) -> None:
        for session in [each for each in self._sessions if each.endpoint == endpoint]:
            session.way_changed()
