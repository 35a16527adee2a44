"""The journal on disk: one SQLite file, every write one transaction, synced before it returns.

The file is locked while it is open, so a second daemon of the same node fails at its start. Calls
run in the loop's thread: one write is one append and one fsync of the write-ahead log.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import assert_never

from evac_common.messages.commands import Command
from evac_common.messages.registry import Message, lookup
from evac_common.messages.reports import Report
from evac_compute.core.record import (
    Accepted,
    Change,
    IncarnationRaised,
    Pending,
    ProvenDead,
    Ran,
    Recorded,
    Released,
    Reported,
    RunMarked,
    RunState,
    Sent,
    Settled,
    TermApplied,
    TermSeen,
    Unsent,
)
from evac_compute.ports import JournalUnavailable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS node (
    one INTEGER PRIMARY KEY CHECK (one = 1), incarnation INTEGER NOT NULL, boot_id TEXT NOT NULL,
    term_seen INTEGER NOT NULL, proven_dead INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS applied (
    one INTEGER PRIMARY KEY CHECK (one = 1), term INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tomb (instance_id TEXT PRIMARY KEY, epoch INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ran (
    instance_id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, run INTEGER NOT NULL, state TEXT NOT NULL
    ) STRICT;
CREATE TABLE IF NOT EXISTS pending (
    number INTEGER PRIMARY KEY AUTOINCREMENT, command_id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS unsent (
    number INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT NOT NULL UNIQUE, at TEXT NOT NULL,
    type TEXT NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TRIGGER IF NOT EXISTS node_never_goes_back BEFORE UPDATE ON node
    WHEN new.incarnation < old.incarnation OR new.term_seen < old.term_seen
    BEGIN SELECT RAISE(ABORT, 'the node would go back in time'); END;
CREATE TRIGGER IF NOT EXISTS tomb_never_goes_back BEFORE UPDATE ON tomb WHEN new.epoch < old.epoch
    BEGIN SELECT RAISE(ABORT, 'a tombstone would go back in time'); END;
CREATE TRIGGER IF NOT EXISTS tomb_stays BEFORE DELETE ON tomb
    BEGIN SELECT RAISE(ABORT, 'a tombstone stays'); END;
INSERT OR IGNORE INTO node VALUES (1, 0, '', 0, 0);
INSERT OR IGNORE INTO applied VALUES (1, 0);
"""


class FileJournal:
    """The journal in `path`, made if missing. Raises JournalUnavailable when it cannot be had."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0.5)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            _sync_directory(
                path.parent
            )  # or a power cut right after the first start loses the file
        except (OSError, sqlite3.Error) as error:
            raise JournalUnavailable(f"{path}: {error}") from error
        self._mirror = self._read()

    def load(self) -> Recorded:
        return self._read()

    def write(self, changes: Sequence[Change]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for change in changes:
                self._mirror.apply(change)
                self._write(change)
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._mirror = self._read()
            if isinstance(error, sqlite3.Error):
                raise JournalUnavailable(f"{self._path}: {error}") from error
            raise

    def close(self) -> None:
        self._db.close()

    def _write(self, change: Change) -> None:
        execute = self._db.execute
        match change:
            case IncarnationRaised():
                execute(
                    "UPDATE node SET incarnation = ?, boot_id = ?, proven_dead = 0",
                    (change.incarnation, change.boot_id),
                )
                execute("DELETE FROM ran")
                execute("DELETE FROM pending")
            case TermSeen():
                execute("UPDATE node SET term_seen = ?", (change.term,))
            case TermApplied():
                execute("UPDATE applied SET term = max(term, ?)", (change.term,))
            case ProvenDead():
                execute("UPDATE node SET proven_dead = 1")
            case Released():
                execute(
                    "INSERT INTO tomb VALUES (?, ?) ON CONFLICT (instance_id)"
                    " DO UPDATE SET epoch = max(epoch, excluded.epoch)",
                    (change.instance_id, change.epoch),
                )
                execute(
                    "DELETE FROM ran WHERE instance_id = ? AND epoch <= ?",
                    (change.instance_id, change.epoch),
                )
            case RunMarked():
                execute(
                    "INSERT OR REPLACE INTO ran VALUES (?, ?, ?, ?)",
                    (change.instance_id, change.epoch, change.run, change.state.value),
                )
            case Accepted():
                execute(
                    "INSERT OR IGNORE INTO pending (command_id, type, body) VALUES (?, ?, ?)",
                    (change.command.command_id, *_pack(change.command)),
                )
            case Settled():
                execute("DELETE FROM pending WHERE command_id = ?", (change.command_id,))
            case Reported():
                execute(
                    "INSERT INTO unsent (message_id, at, type, body) VALUES (?, ?, ?, ?)",
                    (change.message_id, change.at.isoformat(), *_pack(change.report)),
                )
            case Sent():
                execute("DELETE FROM unsent WHERE message_id = ?", (change.message_id,))
            case _:
                assert_never(change)

    def _read(self) -> Recorded:
        rows = self._db.execute
        incarnation, boot_id, term_seen, proven_dead = rows(
            "SELECT incarnation, boot_id, term_seen, proven_dead FROM node"
        ).fetchone()
        recorded = Recorded(
            incarnation=incarnation,
            boot_id=boot_id,
            term_seen=term_seen,
            term_applied=rows("SELECT term FROM applied").fetchone()[0],
            proven_dead=bool(proven_dead),
        )
        recorded.tombs.update(rows("SELECT instance_id, epoch FROM tomb ORDER BY 1").fetchall())
        for instance_id, epoch, run, state in rows("SELECT * FROM ran ORDER BY 1"):
            recorded.runs[instance_id] = Ran(epoch=epoch, run=run, state=RunState(state))
        for command_id, type_, body in rows(
            "SELECT command_id, type, body FROM pending ORDER BY number"
        ):
            command = _unpack(type_, body)
            assert isinstance(command, Command), "only commands are written as pending"
            recorded.pending[command_id] = Pending(command=command)
        for message_id, at, type_, body in rows(
            "SELECT message_id, at, type, body FROM unsent ORDER BY number"
        ):
            report = _unpack(type_, body)
            assert isinstance(report, Report), "only reports are written as unsent"
            recorded.unsent[message_id] = Unsent(
                message_id=message_id, at=datetime.fromisoformat(at), report=report
            )
        return recorded


def _pack(message: Message) -> tuple[str, str]:
    return message.type(), message.model_dump_json()


def _unpack(type_: str, body: str) -> Message:
    return lookup(type_).model_validate_json(body)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
