"""The services' SQLite file, read by raw SQL on a connection that cannot write.

Asked after every commit, so it asks for little: tables that only grow from the last row seen on,
small tables as a whole and compared as tuples, and nothing when nothing was written.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from evac_lab.oracle.rows import (
    Changes,
    Command,
    Declared,
    Event,
    Flags,
    NodeRow,
    Owner,
    Picture,
    Proof,
    Release,
    Spec,
    Status,
    Transition,
    differences,
)

_GROWING: Final = ("ownership", "proof_node", "proof_release", "outbox", "event", "audit")
_MARKS: Final = "SELECT " + ", ".join(f"(SELECT max(rowid) FROM {table})" for table in _GROWING)
_STATUSES: Final = "SELECT instance_id, phase, node_id, epoch, run, next_at FROM instance_status"
_SPECS_MARK: Final = "SELECT count(*), sum(generation), sum(deleted_at IS NULL) FROM instance_spec"
_SPECS: Final = "SELECT id, name, run_strategy, deleted_at IS NOT NULL, manifest FROM instance_spec"
_DECLARED: Final = (
    "SELECT id, name, vcpus, memory_mib, power IS NOT NULL, labels, bridges FROM node_spec"
)
_FLAGS: Final = (
    "SELECT term, storm, storm_released_at, disarmed_until IS NOT NULL, recovering"
    " FROM cluster_flags WHERE id = 1"
)


class Database:
    """`path`: the file; it need not be there, nor hold its tables, before the first `look`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._marks: dict[str, int] = {}
        self._version = -1
        self._seq = 0
        self._optional: dict[str, str] = {}  # columns of a later version → how they are read
        self._node_rows: list[Any] = []
        self._status_rows: list[Any] = []
        self._specs_mark: tuple[Any, ...] = ()
        self._flags_row: tuple[Any, ...] | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def restored(self) -> None:
        """Another content stands in the file: read everything anew at the next look."""
        self.close()

    def look(self, picture: Picture, at_s: float) -> Changes | None:
        """What was committed since the last look; the picture is brought up to date.

        None: nothing was written.
        """
        wholesale = self._connection is None
        if wholesale and not self._open():
            return None
        version = self._one("PRAGMA data_version")[0]
        if version == self._version and not wholesale:
            return None
        self._version = version
        self._seq += 1
        changes = Changes(seq=self._seq, at_s=at_s, wholesale=wholesale)
        if wholesale:
            picture.forget_history()
        self._grown(changes)
        self._small(changes, picture)
        picture.add(changes)
        return changes

    def ledger(self) -> list[tuple[str, int, str, int]]:
        """Every row: instance, epoch, node, incarnation."""
        return self._all("SELECT instance_id, epoch, node_id, incarnation FROM ownership")

    def open_items(self) -> list[tuple[str, str, str | None, str, str | None, str]]:
        """Instance, state, target, last change, not before, evacuation."""
        return self._all(
            "SELECT instance_id, state, target_node_id, updated_at, next_at, evacuation_id"
            " FROM evacuation_item WHERE state NOT IN ('done', 'cancelled')"
        )

    def commands_sent(self) -> dict[str, int]:
        """Instance → how often its unanswered commands were sent, in all."""
        return dict(self._all("SELECT instance_id, sum(sent) FROM command GROUP BY instance_id"))

    def planned_at(self) -> str | None:
        row = self._one("SELECT planned_at FROM planning_lock WHERE id = 1")
        return None if row is None else row[0]

    def attempts(self) -> list[tuple[str, str, str, str, str | None]]:
        """Node, state, who, begun at, ended at."""
        return self._all(
            "SELECT node_id, state, monitor, started_at, finished_at FROM fence_attempt"
        )

    def evacuations_done(self) -> int:
        return int(self._one("SELECT count(*) FROM evacuation WHERE state = 'done'")[0])

    def declare(self, picture: Picture) -> None:
        """Read who is enrolled, and the pools. A node that is forgotten stays known."""
        for row in self._all(_DECLARED):
            picture.declared[row[0]] = Declared(
                row[0],
                row[1],
                row[2],
                row[3],
                bool(row[4]),
                frozenset((json.loads(row[5]) or {}).items()),
                frozenset(json.loads(row[6])),
            )
        picture.pools = {
            name: frozenset(json.loads(nodes))
            for name, nodes in self._all("SELECT name, nodes FROM pool")
        }

    # -- reading -------------------------------------------------------------------------------

    def _open(self) -> bool:
        if not self._path.exists():
            return False
        uri = f"file:{self._path}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0.0)
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if not {*_GROWING, "cluster_flags", "instance_status"} <= tables:
            connection.close()
            return False
        self._connection = connection
        self._marks = dict.fromkeys(_GROWING, 0)
        for table in ("outbox", "event", "audit"):  # what was said before is not what a commit did
            self._marks[table] = self._one(f"SELECT max(rowid) FROM {table}")[0] or 0
        for table, column, absent in (
            ("ownership", "proof_adoption_id", "NULL"),
            ("node_state", "found_off", "0"),
        ):
            columns = {row[1] for row in self._all(f"PRAGMA table_info({table})")}
            self._optional[column] = column if column in columns else absent
        self._node_rows, self._status_rows = [], []
        self._specs_mark, self._flags_row = (), None
        return True

    def _all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        assert self._connection is not None, "opened by the first look"
        return self._connection.execute(sql, parameters).fetchall()

    def _one(self, sql: str) -> Any:
        assert self._connection is not None, "opened by the first look"
        return self._connection.execute(sql).fetchone()

    def _grown(self, changes: Changes) -> None:
        seq = 0 if changes.wholesale else changes.seq
        readers = {
            "ownership": self._owners,
            "proof_node": self._proofs,
            "proof_release": self._releases,
            "outbox": self._outbox,
            "event": self._events,
            "audit": self._audit,
        }
        for table, mark in zip(_GROWING, self._one(_MARKS), strict=True):
            now, before = mark or 0, self._marks[table]
            self._marks[table] = now  # rows may have been deleted: it may also fall
            if now > before:
                readers[table](changes, before, seq)

    def _owners(self, changes: Changes, after: int, seq: int) -> None:
        adoption = self._optional["proof_adoption_id"]
        changes.owners = [
            Owner(
                instance=row[0],
                epoch=row[1],
                node_id=row[2],
                term=row[3],
                incarnation=row[4],
                proof_node=row[5],
                proof_release=row[6],
                adoption=row[7],
                seq=seq,
            )
            for row in self._all(
                "SELECT instance_id, epoch, node_id, term, incarnation, proof_node_id,"
                f" proof_release_id, {adoption} FROM ownership WHERE rowid > ? ORDER BY rowid",
                (after,),
            )
        ]

    def _proofs(self, changes: Changes, after: int, seq: int) -> None:
        changes.proofs = [
            Proof(
                id=row[0],
                node_id=row[1],
                incarnation=row[2],
                kind=row[3],
                seq=seq,
                at_s=changes.at_s,
            )
            for row in self._all(
                "SELECT id, node_id, incarnation, kind FROM proof_node WHERE rowid > ?"
                " ORDER BY rowid",
                (after,),
            )
        ]

    def _releases(self, changes: Changes, after: int, seq: int) -> None:
        changes.releases = [
            Release(id=row[0], instance=row[1], epoch=row[2], node_id=row[3], kind=row[4], seq=seq)
            for row in self._all(
                "SELECT id, instance_id, epoch, node_id, kind FROM proof_release"
                " WHERE rowid > ? ORDER BY rowid",
                (after,),
            )
        ]

    def _outbox(self, changes: Changes, after: int, seq: int) -> None:
        changes.commands = [
            Command(service=row[0], routing_key=row[1], body=row[2])
            for row in self._all(
                "SELECT service, routing_key, body FROM outbox"
                " WHERE rowid > ? AND exchange = 'evac.command' ORDER BY rowid",
                (after,),
            )
        ]

    def _events(self, changes: Changes, after: int, seq: int) -> None:
        changes.events = [
            Event(name=row[0], subject=row[1], alarm=bool(row[2]))
            for row in self._all(
                "SELECT name, subject, alarm FROM event WHERE rowid > ? ORDER BY rowid", (after,)
            )
        ]

    def _audit(self, changes: Changes, after: int, seq: int) -> None:
        for subject, actor, detail in self._all(
            "SELECT subject, actor, detail FROM audit"
            " WHERE rowid > ? AND action = 'node.state' ORDER BY rowid",
            (after,),
        ):
            told = json.loads(detail)
            changes.transitions.append(
                Transition(node_id=subject, actor=actor, old=told["old"], new=told["new"])
            )

    def _small(self, changes: Changes, picture: Picture) -> None:
        found_off = self._optional["found_off"]
        rows = self._all(f"SELECT node_id, state, term, incarnation, {found_off} FROM node_state")
        if rows != self._node_rows:
            self._node_rows = rows
            nodes = [NodeRow(row[0], row[1], row[2], row[3], bool(row[4])) for row in rows]
            changes.nodes = differences(picture.nodes, nodes)
            picture.nodes = {node.node_id: node for node in nodes}
            if not picture.nodes.keys() <= picture.declared.keys():
                self.declare(picture)
        rows = self._all(_STATUSES)
        if rows != self._status_rows:
            self._status_rows = rows
            statuses = [Status(*row) for row in rows]
            changes.statuses = differences(picture.statuses, statuses)
            picture.statuses = {status.instance: status for status in statuses}
        mark = self._one(_SPECS_MARK)
        if mark != self._specs_mark:
            self._specs_mark = mark
            specs = [_spec(*row) for row in self._all(_SPECS)]
            changes.specs = differences(picture.specs, specs)
            picture.specs = {spec.instance: spec for spec in specs}
        row = self._one(_FLAGS)
        if row is not None and row != self._flags_row:
            self._flags_row = row
            flags = Flags(row[0], bool(row[1]), row[2], bool(row[3]), bool(row[4]))
            changes.flags = (picture.flags, flags)
            picture.flags = flags


def _spec(instance: str, name: str, strategy: str, deleted: int, manifest: str) -> Spec:
    said = json.loads(manifest)
    return Spec(
        instance,
        name,
        strategy,
        bool(deleted),
        said["vcpus"],
        said["memory_mib"],
        tuple(disk["pool"] for disk in said.get("disks", ())),
        tuple(nic["bridge"] for nic in said.get("nics", ())),
        tuple((said.get("node_selector") or {}).items()),
    )
