"""Histories, clean and doctored, told to an oracle: a database by raw SQL, a bus, and hardware.

Everything that a cluster would do in one go is a method; each part of it can be left out or done
wrongly by a test. The database is made by the services' own migrations, and its triggers are
dropped: what they refuse must be put in here.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]

from evac_lab.oracle import Oracle, Statistics, Timings

WALL = "2026-01-01 00:00:00.000000"
NODES = ("n1", "n2", "n3", "n4")


def node_id(name: str) -> str:
    return name.encode().hex().rjust(32, "0")


def instance_id(name: str) -> str:
    return name.encode().hex().rjust(32, "a")


def user_of(name: str) -> str:
    return f"compute-{node_id(name)}"


class History:
    """`at` is the present moment, seconds. `incarnation` and `term`: each node's session."""

    def __init__(self, path: Path, timings: Timings | None = None) -> None:
        self.at = 1.0
        self.path = path
        self.oracle = Oracle(path, timings=timings)
        self.incarnation: dict[str, int] = {}
        self.boots: dict[str, int] = {}
        self.term = 1
        self._ids = itertools.count(1)
        self.sql = sqlite3.connect(path, isolation_level=None)
        for (name,) in self.sql.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            self.sql.execute(f"DROP TRIGGER {name}")
        self.update("cluster_flags", "id = 1", term=1)
        for name in NODES:
            power = json.dumps({"kind": "ipmi"})
            self.row(
                "node_spec", id=node_id(name), name=name, vcpus=8, memory_mib=8192, power=power
            )
            self.row("node_state", node_id=node_id(name), state="new", term=0, incarnation=0)
        self.commit()

    # -- the database ----------------------------------------------------------------------------

    def row(self, table: str, **values: Any) -> None:
        """Insert a row; columns that must have a value and were given none get a plain one."""
        full = dict(values)
        for _, name, kind, must, default, key in self.sql.execute(f"PRAGMA table_info({table})"):
            if name in full or not must or default is not None or (key and kind == "INTEGER"):
                continue
            plain = {"DATETIME": WALL, "JSON": "[]", "BLOB": b""}
            number = any(word in kind for word in ("INT", "BOOL", "FLOAT"))
            full[name] = 0 if number else plain.get(kind, "")
        columns, marks = ", ".join(full), ", ".join("?" * len(full))
        self.sql.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(full.values()))

    def update(self, table: str, where: str, **values: Any) -> None:
        columns = ", ".join(f"{name} = ?" for name in values)
        self.sql.execute(f"UPDATE {table} SET {columns} WHERE {where}", tuple(values.values()))

    def new_id(self) -> str:
        return f"{next(self._ids):032x}"

    def commit(self) -> None:
        self.oracle.committed(self.at)

    def own(self, instance: str, epoch: int, node: str, **columns: Any) -> None:
        """A ledger row, of the node's present incarnation unless told otherwise."""
        values = {
            "term": self.term,
            "incarnation": self.incarnation.get(node, 1),
            "run": 1,
            **columns,
        }
        self.row(
            "ownership",
            instance_id=instance_id(instance),
            epoch=epoch,
            node_id=node_id(node),
            **values,
        )

    def proof(self, node: str, incarnation: int, kind: str = "power") -> str:
        proof = self.new_id()
        self.row("proof_node", id=proof, node_id=node_id(node), incarnation=incarnation, kind=kind)
        return proof

    def release(self, instance: str, epoch: int, node: str) -> str:
        release = self.new_id()
        self.row(
            "proof_release",
            id=release,
            instance_id=instance_id(instance),
            epoch=epoch,
            node_id=node_id(node),
            kind="stopped",
        )
        return release

    def status(self, instance: str, phase: str, node: str | None = None, **columns: Any) -> None:
        values = {"node_id": node and node_id(node), **columns}
        self.sql.execute(
            "DELETE FROM instance_status WHERE instance_id = ?", (instance_id(instance),)
        )
        self.row("instance_status", instance_id=instance_id(instance), phase=phase, **values)

    def state(self, node: str, state: str, *, actor: str = "evac-monitor", **columns: Any) -> None:
        """Move a node, with its audit row and, when blocked, the alarm."""
        old = self.sql.execute(
            "SELECT state FROM node_state WHERE node_id = ?", (node_id(node),)
        ).fetchone()[0]
        self.update("node_state", f"node_id = '{node_id(node)}'", state=state, **columns)
        self.row(
            "audit",
            actor=actor,
            action="node.state",
            subject=node_id(node),
            detail=json.dumps({"old": old, "new": state}),
        )

    def event(self, name: str, node: str, *, alarm: bool) -> None:
        self.row(
            "event", event_id=self.new_id(), name=name, subject=node_id(node), alarm=int(alarm)
        )

    def flags(self, **columns: Any) -> None:
        self.update("cluster_flags", "id = 1", **columns)

    # -- the bus ---------------------------------------------------------------------------------

    def report(self, node: str, kind: str, **body: Any) -> None:
        """A node's word; `term` 0 leaves it out."""
        said = {
            "node_id": node_id(node),
            "incarnation": self.incarnation[node],
            "term": self.term,
            **body,
        }
        exchange = "evac.heartbeat" if kind == "heartbeat" else "evac.report"
        self.publish(user_of(node), node, exchange, f"{user_of(node)}.{kind}", said)

    def publish(
        self, user: str, endpoint: str, exchange: str, key: str, body: Mapping[str, Any]
    ) -> None:
        self.oracle.published(user, endpoint, exchange, key, msgpack.packb(dict(body)), self.at)

    def command(self, node: str, verb: str, *, outbox: bool = True, **body: Any) -> None:
        """Issue a command and put it on the bus; the commit is the caller's."""
        said = {
            "node_id": node_id(node),
            "command_id": self.new_id(),
            "term": self.term,
            "incarnation": self.incarnation.get(node, 1),
            **body,
        }
        service = "monitor" if verb == "session" else "scheduler"
        key = f"compute.{user_of(node)}.{verb}"
        if outbox:
            packed = msgpack.packb(said)
            self.row(
                "outbox", service=service, exchange="evac.command", routing_key=key, body=packed
            )
            self.commit()
        self.publish(f"evac-{service}", service, "evac.command", key, said)

    # -- what a cluster does in one go -----------------------------------------------------------

    def join(self, node: str) -> None:
        """Boot, register under the next incarnation, get a session, apply it: the node is up."""
        self.boots[node] = self.boots.get(node, 0) + 1
        self.incarnation[node] = self.incarnation.get(node, 0) + 1
        self.oracle.booted(node, self.at)
        self.register(node)
        incarnation = self.incarnation[node]
        proven = self.sql.execute(
            "SELECT max(incarnation) FROM proof_node WHERE node_id = ?", (node_id(node),)
        ).fetchone()[0]
        if (proven or 0) < incarnation - 1:
            self.proof(node, incarnation - 1, "incarnation")
        self.state(node, "joining", term=self.term, incarnation=incarnation)
        self.command(node, "session", allowed={}, superseded={}, proven_dead=False)
        self.report(node, "session_applied", destroyed=[], quarantined=[])
        self.state(node, "up")
        self.commit()

    def register(self, node: str) -> None:
        boot = f"{node}-boot-{self.boots[node]}"
        self.report(node, "registered", boot_id=boot, term=0, inventory=[])

    def declare(self, instance: str, strategy: str = "Always") -> None:
        manifest = json.dumps({"vcpus": 1, "memory_mib": 512})
        self.row(
            "instance_spec",
            id=instance_id(instance),
            name=instance,
            run_strategy=strategy,
            manifest=manifest,
            generation=1,
        )
        self.status(instance, "pending")
        self.commit()

    def begin(self, instance: str, node: str, epoch: int = 1, run: int = 1) -> None:
        self.oracle.began(node, instance_id(instance), epoch, run, self.at)

    def end(self, instance: str, node: str, epoch: int = 1, run: int = 1) -> None:
        self.oracle.ended(node, instance_id(instance), epoch, run, self.at)

    def launch(self, instance: str, node: str, epoch: int = 1, **proofs: Any) -> None:
        """From the ledger row to the recorded `running`."""
        self.own(instance, epoch, node, **proofs)
        self.status(instance, "starting", node, epoch=epoch, run=1)
        self.commit()
        about: dict[str, Any] = {"instance_id": instance_id(instance), "epoch": epoch, "run": 1}
        self.command(node, "start", **about)
        self.at += 1
        self.begin(instance, node, epoch)
        self.report(node, "started", **about)
        self.status(instance, "running", node, epoch=epoch, run=1)
        self.commit()

    def stop(self, instance: str, node: str, epoch: int = 1) -> str:
        """Asked to stop, ended, told so, recorded: the release's id."""
        about: dict[str, Any] = {"instance_id": instance_id(instance), "epoch": epoch}
        self.command(node, "stop", **about, grace_s=30.0)
        self.at += 1
        self.end(instance, node, epoch)
        self.report(node, "stopped", **about, reason="commanded")
        release = self.release(instance, epoch, node)
        self.status(instance, "pending")
        self.commit()
        return release

    def cut(self, node: str, *instances: str) -> None:
        """The plug is pulled."""
        self.oracle.fault("C", "power", self.at)
        for instance in instances:
            self.end(instance, node)
        self.oracle.powered_off(node, self.at)

    def fencing(self, node: str) -> None:
        """It died, and somebody decided to cut it off."""
        self.cut(node)
        self.state(node, "fencing")
        self.commit()

    def fence(self, node: str) -> str:
        """Silent, cut off, proven by its power: the proof's id."""
        self.state(node, "suspect")
        self.commit()
        self.state(node, "fencing", found_off=1)
        self.commit()
        self.at += 2
        proof = self.proof(node, self.incarnation[node])
        self.state(node, "fenced")
        self.commit()
        return proof

    def controllers(self) -> None:
        for name in ("api-1", "scheduler-1", "monitor-1"):
            self.oracle.process(name, "started", self.at)

    def beat(self, until: float, every: float = 2.0) -> None:
        """Time goes by: heartbeats are heard and somebody commits."""
        while self.at < until:
            self.at += every
            for node in sorted(self.incarnation):
                self.report(node, "heartbeat", sequence=1)
            self.update("planning_lock", "id = 1", took_s=self.at)
            self.commit()

    def cluster(self) -> None:
        """Controllers, every node up, `a` on n1 and `b` on n2."""
        self.controllers()
        for name in NODES:
            self.join(name)
        for instance, node in (("a", "n1"), ("b", "n2")):
            self.declare(instance)
            self.launch(instance, node)

    def finish(self, *, calm: bool = False) -> Statistics:
        self.sql.close()
        return self.oracle.finish(self.at, calm=calm)

    @property
    def broken(self) -> list[str]:
        """Invariants found broken, each once."""
        return sorted({violation.invariant for violation in self.oracle.violations})
