"""What was said on the bus: commands, and what each node told of itself.

Bodies are decoded here, with msgpack alone. What cannot be decoded, or lacks a field, is no message
of a service; it says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped] # ships no types; what comes out is looked at here

NODE_USER: Final = "compute-"
_COMMANDS, _REPORTS, _HEARTBEATS = "evac.command", "evac.report", "evac.heartbeat"


def node_of(user: str) -> str | None:
    return user[len(NODE_USER) :] if user.startswith(NODE_USER) else None


def verb_of(routing_key: str) -> tuple[str, str]:
    """(`start`, node id) of `compute.compute-<id>.start`."""
    _, user, verb = routing_key.split(".", 2)
    return verb, node_of(user) or user


def decode(body: bytes) -> Mapping[str, Any]:
    """Empty when it is not a map."""
    try:
        value = msgpack.unpackb(body, raw=False, strict_map_key=False)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class Key(NamedTuple):
    """An instance on a node in a session, as a report names it."""

    node_id: str
    instance: str
    epoch: int
    run: int
    term: int
    incarnation: int


class Ordered(NamedTuple):
    """A start that was commanded."""

    run: int
    term: int
    incarnation: int
    at_s: float


class Told(NamedTuple):
    """What a node said about itself in one message."""

    node_id: str
    kind: str  # registered, heartbeat, or the report's name
    incarnation: int
    term: int  # 0: in no session, or the message does not say
    boot: str  # of `registered`; else empty
    body: Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Talk:
    """Everything said so far that a check needs."""

    incarnation: dict[str, int] = field(default_factory=dict)  # as each node told it last
    # as each machine told it last, under its own name or that of the node it was copied from
    lives: dict[str, int] = field(default_factory=dict)
    terms: dict[tuple[str, int], list[tuple[float, int]]] = field(default_factory=dict)
    starts: dict[tuple[str, str, int], list[Ordered]] = field(default_factory=dict)
    ends: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)
    stops: dict[tuple[str, str], int] = field(default_factory=dict)  # highest epoch
    sessions: set[tuple[str, int, int]] = field(default_factory=set)
    running: set[Key] = field(default_factory=set)
    gone: set[Key] = field(default_factory=set)  # said to have ended, or not shown any more
    tombs: dict[tuple[str, str], int] = field(default_factory=dict)  # told in any session
    tombs_in: dict[tuple[str, str, int, int], int] = field(default_factory=dict)
    looked: set[tuple[str, int, int]] = field(default_factory=set)  # sessions with an inventory
    _boots: dict[str, set[str]] = field(default_factory=dict)  # told so far, by node and machine
    _shown: dict[tuple[str, int, int], set[Key]] = field(default_factory=dict)

    def hear(
        self, user: str, endpoint: str, exchange: str, routing_key: str, body: bytes, at_s: float
    ) -> Told | None:
        """Take in one message; what a node told of itself is given back."""
        if exchange == _COMMANDS:
            self._command(routing_key, body, at_s)
            return None
        node_id = node_of(user)
        if node_id is None or exchange not in (_REPORTS, _HEARTBEATS):
            return None
        said = decode(body)
        if said.get("node_id") != node_id or not isinstance(said.get("incarnation"), int):
            return None
        kind = "heartbeat" if exchange == _HEARTBEATS else routing_key.rpartition(".")[2]
        told = Told(
            node_id=node_id,
            kind=kind,
            incarnation=said["incarnation"],
            term=said.get("term") or 0,
            boot=said.get("boot_id", "") if kind == "registered" else "",
            body=said,
        )
        if kind in ("heartbeat", "registered"):
            self._incarnation(told, self.incarnation, told.node_id)
            self._incarnation(told, self.lives, endpoint)
        if told.term:
            self._term(told, at_s)
        if kind != "heartbeat":
            self._report(told)
        return told

    def _incarnation(self, told: Told, known: dict[str, int], who: str) -> None:
        """It rises; only a new boot may have a lower one. What comes late is of the past."""
        boots = self._boots.setdefault(who, set())
        if told.kind == "registered" and told.boot not in boots:
            boots.add(told.boot)
            known[who] = told.incarnation
        else:
            known[who] = max(known.get(who, 0), told.incarnation)

    def term_before(self, node_id: str, incarnation: int, at_s: float) -> int:
        """The highest term of a session that the node said it was in, up to then."""
        said = self.terms.get((node_id, incarnation), ())
        return max((term for when_s, term in said if when_s <= at_s), default=0)

    # -- commands ------------------------------------------------------------------------------

    def _command(self, routing_key: str, body: bytes, at_s: float) -> None:
        verb, node_id = verb_of(routing_key)
        said = decode(body)
        match verb:
            case "start":
                order = Ordered(said["run"], said["term"], said["incarnation"], at_s)
                key = (node_id, said["instance_id"], said["epoch"])
                known = self.starts.setdefault(key, [])
                if order[:3] not in (each[:3] for each in known):
                    known.append(order)
            case "stop":
                where = (node_id, said["instance_id"])
                self.stops[where] = max(self.stops.get(where, 0), said["epoch"])
            case "destroy":
                self._end(node_id, said["instance_id"], said["epoch"], at_s)
            case "session":
                self.sessions.add((node_id, said["term"], said["incarnation"]))
                for instance, epoch in said["superseded"].items():
                    self._end(node_id, instance, epoch, at_s)

    def _end(self, node_id: str, instance: str, epoch: int, at_s: float) -> None:
        known = self.ends.get((node_id, instance), (0, at_s))
        self.ends[node_id, instance] = (max(known[0], epoch), at_s)

    # -- reports -------------------------------------------------------------------------------

    def _term(self, told: Told, at_s: float) -> None:
        said = self.terms.setdefault((told.node_id, told.incarnation), [])
        if not said or told.term > said[-1][1]:
            said.append((at_s, told.term))

    def _key(self, told: Told, said: Mapping[str, Any]) -> Key:
        return Key(
            told.node_id,
            said["instance_id"],
            said["epoch"],
            said.get("run", 0),
            told.term,
            told.incarnation,
        )

    def _report(self, told: Told) -> None:
        match told.kind:
            case "started":
                self._show(told, self._key(told, told.body))
            case "exited":
                self.gone.add(self._key(told, told.body))
            case "stopped" | "start_refused":
                self._tomb(told, told.body["instance_id"], told.body["epoch"])
            case "inventory":
                self._inventory(told)

    def _show(self, told: Told, key: Key) -> None:
        self.running.add(key)
        self._shown.setdefault((told.node_id, told.term, told.incarnation), set()).add(key)

    def _tomb(self, told: Told, instance: str, epoch: int) -> None:
        where = (told.node_id, instance)
        self.tombs[where] = max(self.tombs.get(where, 0), epoch)
        in_session = (told.node_id, instance, told.term, told.incarnation)
        self.tombs_in[in_session] = max(self.tombs_in.get(in_session, 0), epoch)

    def _inventory(self, told: Told) -> None:
        shown = {self._key(told, seen) for seen in told.body["domains"] if seen["running"]}
        session = (told.node_id, told.term, told.incarnation)
        self.looked.add(session)
        before = self._shown.setdefault(session, set())
        self.gone |= before - shown
        before |= shown
        self.running |= shown
        self.gone |= {self._key(told, seen) for seen in told.body["exited"]}
        for instance, epoch in told.body["released"].items():
            self._tomb(told, instance, epoch)
