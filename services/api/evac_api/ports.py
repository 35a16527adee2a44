"""What the handlers and loops need: the desk where requests are carried out, one transaction each.

A mutating call takes the `Caller` and returns an `Answer`; a refusal is raised (`core.refusals`)
and stores nothing. Everything may raise StoreUnavailable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evac_api.core.verbs import NodeVerb
from evac_api.core.views import (
    ClusterView,
    EventView,
    ExplainView,
    InstanceView,
    NodeView,
    OperationView,
    Page,
    PoolView,
    StormView,
)
from evac_common.model.manifest import ApplyDocument, NodeManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. With a `key`, the same request is carried out once and answered again the same."""

    actor: str
    key: str | None = None
    digest: str = ""  # of the request; another request under the same key is refused
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int  # as HTTP means it
    body: Any = None  # plain JSON values
    location: str | None = None
    generation: int | None = None  # the ETag


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    names: tuple[str, ...] = ()  # `node.down`, or `node.*` for a family
    subject: str | None = None  # an id
    alarms: bool = False


class Nodes(Protocol):
    async def enrol(self, caller: Caller, name: str, node: NodeManifest) -> Answer: ...

    async def page(self, *, after: str, limit: int) -> Page[NodeView]: ...

    async def show(self, name: str) -> NodeView: ...

    async def wish(self, caller: Caller, name: str, verb: NodeVerb, reason: str) -> Answer:
        """Record a wish for its owner and an operation that settles when the owner has acted."""

    async def forget(self, caller: Caller, name: str, generation: int | None) -> Answer: ...


class Declarations(Protocol):
    async def apply(self, caller: Caller, document: ApplyDocument) -> Answer: ...

    async def create(self, caller: Caller, document: ApplyDocument) -> Answer:
        """Apply a document of one pool or instance that must not exist yet."""

    async def replace(
        self, caller: Caller, document: ApplyDocument, generation: int | None
    ) -> Answer:
        """Apply a document of one resource, if it still has this generation."""

    async def delete(self, caller: Caller, names: Mapping[str, Sequence[str]]) -> Answer: ...


class Pools(Protocol):
    async def page(self, *, after: str, limit: int) -> Page[PoolView]: ...

    async def show(self, name: str) -> PoolView: ...

    async def delete(self, caller: Caller, name: str, generation: int | None) -> Answer: ...


class Instances(Protocol):
    async def page(
        self, *, after: str, limit: int, node: str | None = None
    ) -> Page[InstanceView]: ...

    async def show(self, name: str) -> InstanceView: ...

    async def explain(self, name: str) -> ExplainView: ...

    async def set_running(
        self, caller: Caller, name: str, *, running: bool, reason: str, generation: int | None
    ) -> Answer: ...

    async def delete(self, caller: Caller, name: str, generation: int | None) -> Answer: ...


class Operations(Protocol):
    async def page(
        self, *, after: str, limit: int, state: str | None, request_id: str | None
    ) -> Page[OperationView]: ...

    async def show(self, operation_id: str) -> OperationView: ...

    async def refused(self, caller: Caller, verb: str, target: str, why: str) -> None:
        """Record a request from the bus that was refused, so that its sender hears why."""

    async def any_open(self) -> bool:
        """Is an operation open, or the record of a deleted instance left?"""

    async def settle(self) -> int:
        """Look at every open operation once; returns how many are still open."""

    async def purge(self) -> int:
        """Remove deleted instances that surely run nowhere; returns how many are left."""


class Events(Protocol):
    async def since(self, wanted: EventFilter, *, after: int, limit: int) -> list[EventView]: ...

    async def latest(self, wanted: EventFilter, *, limit: int) -> list[EventView]: ...

    async def arrived(
        self, wanted: EventFilter, *, after: int, known: frozenset[int], limit: int
    ) -> list[EventView]:
        """Events above `after`, and recent ones below it that are not `known`.

        Transactions may commit in another order than their numbers were given out.
        """

    async def last_sequence(self) -> int: ...

    async def expire(self) -> int: ...


class Cluster(Protocol):
    async def show(self) -> ClusterView: ...

    async def storm(self) -> StormView: ...

    async def wish(
        self, caller: Caller, verb: str, reason: str, arguments: Mapping[str, Any]
    ) -> Answer: ...


class Tokens(Protocol):
    async def actor(self, token: str) -> str:
        """The name of a token. Raises Unauthenticated or Forbidden."""

    async def issue(self, name: str) -> str:
        """A new token; only its digest is stored. Raises Conflict when the name is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    nodes: Nodes
    declarations: Declarations
    pools: Pools
    instances: Instances
    operations: Operations
    events: Events
    cluster: Cluster
    tokens: Tokens
