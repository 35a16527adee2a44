"""Rows of the services' database as plain values, and what one commit changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LIVE_NOT = frozenset({"fencing", "blocked", "fenced"})  # to such a node nothing may be issued


class NodeRow(NamedTuple):
    node_id: str
    state: str
    term: int
    incarnation: int
    found_off: bool


class Status(NamedTuple):
    instance: str
    phase: str
    node_id: str | None
    epoch: int | None
    run: int | None
    next_at: str | None


class Spec(NamedTuple):
    instance: str
    name: str
    strategy: str
    deleted: bool
    vcpus: int
    memory_mib: int
    pools: tuple[str, ...]
    bridges: tuple[str, ...]
    selector: tuple[tuple[str, str], ...]  # labels that its node must have

    @property
    def wanted(self) -> bool:
        return self.strategy == "Always" and not self.deleted


class Declared(NamedTuple):
    """A node as enrolled."""

    node_id: str
    name: str
    vcpus: int
    memory_mib: int
    has_power: bool
    labels: frozenset[tuple[str, str]]
    bridges: frozenset[str]


class Flags(NamedTuple):
    term: int
    storm: bool
    storm_released_at: str | None
    disarmed: bool
    recovering: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A ledger row. `seq`: the commit that brought it; 0 when it was there at the first look."""

    instance: str
    epoch: int
    node_id: str
    term: int
    incarnation: int
    proof_node: str | None
    proof_release: str | None
    adoption: str | None
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A node and all its incarnations up to this one are dead."""

    id: str
    node_id: str
    incarnation: int
    kind: str
    seq: int
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    id: str
    instance: str
    epoch: int
    node_id: str
    kind: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command in the outbox: issued, not yet on the bus."""

    service: str
    routing_key: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    name: str
    subject: str
    alarm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """An audit row about a node's state."""

    node_id: str
    actor: str
    old: str
    new: str


@dataclass(slots=True, kw_only=True)
class Changes:
    """What a commit changed. Pairs are (before, after); None: it was not there, it is gone."""

    seq: int
    at_s: float
    wholesale: bool = False  # a first look, or one after a restore: not what a commit did
    owners: list[Owner] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    nodes: list[tuple[NodeRow | None, NodeRow | None]] = field(default_factory=list)
    statuses: list[tuple[Status | None, Status | None]] = field(default_factory=list)
    specs: list[tuple[Spec | None, Spec | None]] = field(default_factory=list)
    flags: tuple[Flags | None, Flags] | None = None


@dataclass(slots=True, kw_only=True)
class Picture:
    """The database as it is now."""

    nodes: dict[str, NodeRow] = field(default_factory=dict)
    declared: dict[str, Declared] = field(default_factory=dict)
    statuses: dict[str, Status] = field(default_factory=dict)
    specs: dict[str, Spec] = field(default_factory=dict)
    pools: dict[str, frozenset[str]] = field(default_factory=dict)  # name → nodes that have it
    flags: Flags | None = None
    ledger: dict[str, dict[int, Owner]] = field(default_factory=dict)
    proofs: dict[str, Proof] = field(default_factory=dict)
    proofs_of: dict[str, list[Proof]] = field(default_factory=dict)
    releases: dict[tuple[str, int], Release] = field(default_factory=dict)

    def owner(self, instance: str) -> Owner | None:
        """The ledger's last row of it."""
        epochs = self.ledger.get(instance)
        return epochs[max(epochs)] if epochs else None

    def dead(self, node_id: str, incarnation: int) -> Proof | None:
        """The first proof that covers this incarnation."""
        covering = (p for p in self.proofs_of.get(node_id, ()) if p.incarnation >= incarnation)
        return min(covering, key=lambda proof: proof.incarnation, default=None)

    def over(self, owner: Owner) -> bool:
        """Released, or its node's incarnation is proven dead."""
        released = (owner.instance, owner.epoch) in self.releases
        return released or self.dead(owner.node_id, owner.incarnation) is not None

    def add(self, changes: Changes) -> None:
        for owner in changes.owners:
            self.ledger.setdefault(owner.instance, {})[owner.epoch] = owner
        for proof in changes.proofs:
            self.proofs[proof.id] = proof
            self.proofs_of.setdefault(proof.node_id, []).append(proof)
        for release in changes.releases:
            self.releases[release.instance, release.epoch] = release

    def forget_history(self) -> None:
        """The database went back in time: what it holds is read anew."""
        self.ledger.clear()
        self.proofs.clear()
        self.proofs_of.clear()
        self.releases.clear()

    def homes(self, spec: Spec) -> list[Declared]:
        """Nodes that have what it needs, whatever their state and however full they are."""
        return [
            node
            for node in self.declared.values()
            if all(node.node_id in self.pools.get(pool, ()) for pool in spec.pools)
            and node.bridges.issuperset(spec.bridges)
            and node.labels.issuperset(spec.selector)
        ]

    def name_of(self, node_id: str | None) -> str:
        declared = self.declared.get(node_id or "")
        return declared.name if declared else str(node_id)


def differences(before: Mapping[str, Any], after: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Pairs (before, after) of rows that are not the same; the first column is the key."""
    left = dict(before)
    pairs = []
    for row in after:
        was = left.pop(row[0], None)
        if was != row:
            pairs.append((was, row))
    return pairs + [(gone, None) for gone in left.values()]
