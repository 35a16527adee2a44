"""What the api answers, as models: one place for the shapes of REST, bus outcomes and the CLI.

Times are RFC 3339, UTC. A field that may be null says when.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from evac_common.model.manifest import InstanceManifest, Labels
from evac_common.model.states import (
    LockScope,
    NodeState,
    OperationState,
    Phase,
    PoolKind,
    PowerKind,
    Trouble,
)

Item = TypeVar("Item")


class View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Page(View, Generic[Item]):
    """Part of a list, ordered; `next` is the `after` of the following page, null at the end."""

    items: list[Item]
    next: str | None = None


class GateView(View):
    gate: str
    open: bool
    why: str


class PowerView(View):
    """How the BMC is reached; its password is never shown."""

    kind: PowerKind
    address: str
    port: int
    username: str
    has_password: bool
    system: str | None = Field(default=None, description="Redfish: which of the BMC's systems.")
    tls_sha256: str | None = Field(
        default=None, description="Redfish: fingerprint of the certificate that is trusted."
    )


class TroubleView(View):
    reason: Trouble
    why: str


class NodeView(View):
    """A node: as enrolled, and as the monitor sees it."""

    id: str
    name: str
    vcpus: int
    memory_mib: int
    labels: Labels
    bridges: list[str]
    dmi_uuid: str | None = Field(description="As enrolled, or as first registered.")
    power: PowerView | None = Field(description="Null: only a person can prove it dead.")
    generation: int
    state: NodeState
    reason: str = Field(description="Why it is in this state.")
    troubles: list[TroubleView] = Field(description="Why it is degraded; empty: it is not.")
    isolated: bool = Field(description="Silent, but a second channel shows it alive.")
    since: datetime | None = Field(description="When it came into this state.")
    heard_at: datetime | None = Field(description="Last heartbeat, about; null: never.")
    incarnation: int
    term: int
    gates: list[GateView] = Field(description="The last decision whether it may be fenced.")
    instances: int = Field(description="Instances that belong to it, by the ledger.")
    vcpus_used: int
    memory_mib_used: int
    hypervisor: str
    daemon_version: str


class Credentials(View):
    """What the node's daemon needs. Shown once; nobody can read the secret again."""

    node_id: str
    name: str
    bus_url: str = Field(description="AMQP URL of the broker, without user and password.")
    user: str
    secret: str | None = Field(description="Null in a repeated answer (Idempotency-Key).")


class Enrolled(View):
    node: NodeView
    credentials: Credentials
    commands: list[str] = Field(
        description="To be run at the broker by hand; empty when the api did it itself."
    )


class Forgotten(View):
    name: str
    commands: list[str] = Field(
        description="To be run at the broker by hand; empty when the api did it itself."
    )


class PoolView(View):
    id: str
    name: str
    kind: PoolKind
    source: str
    lock_scope: LockScope
    nodes: list[str] = Field(description="Names of the nodes that reach it.")
    generation: int
    instances: int = Field(description="Instances with a disk in it.")


class InstanceView(View):
    """An instance: intent (spec), placement (ledger) and status (last seen), never mixed."""

    id: str
    name: str
    spec: InstanceManifest
    generation: int
    deleted_at: datetime | None = Field(description="Set: it is being stopped and removed.")
    status: str = Field(description="For people: what may truthfully be said now.")
    certain: bool = Field(description="False: its node is not up, the phase is of the past.")
    phase: Phase | None = Field(description="Last seen; null: never placed.")
    node: str | None = Field(description="Its owner, or its last one.")
    epoch: int | None
    run: int | None
    reason: str
    attempts: int = Field(description="Failed starts since it last ran.")
    next_at: datetime | None = Field(description="No start before this moment (back-off).")
    observed_at: datetime | None = Field(description="When a report last confirmed it.")
    created_at: datetime
    updated_at: datetime


class StepView(View):
    kind: str = Field(description="A stable word: intent, last_heartbeat, gate, proof ...")
    at: datetime | None
    what: str
    why: str
    detail: dict[str, Any]


class ExplainView(View):
    """Why is it not running, why is it there? Oldest step first; the summary is the answer."""

    instance: str
    summary: str
    running: bool
    steps: list[StepView]


class OperationView(View):
    id: str
    verb: str
    target_kind: str
    target: str
    state: OperationState
    message: str
    actor: str
    reason: str
    request_id: str | None
    created_at: datetime
    updated_at: datetime


class EventView(View):
    sequence: int
    id: str
    type: str
    name: str
    service: str
    subject: str
    alarm: bool
    time: datetime
    data: dict[str, Any]


class ClusterView(View):
    armed: bool = Field(
        description="False: nothing is fenced automatically, by an operator's wish."
    )
    disarmed_until: datetime | None
    disarmed_reason: str
    storm: bool
    storm_reason: str
    storm_since: datetime | None
    recovering: bool
    recovering_reason: str = Field(
        default="", description="Why the database is not believed now; nothing starts meanwhile."
    )
    recovering_since: datetime | None = None
    term: int
    nodes: dict[NodeState, int]
    instances: dict[str, int] = Field(description="By phase; `unplaced` were never placed.")
    evacuations_open: int
    operations_pending: int


class SilentNodeView(View):
    name: str
    state: NodeState
    since: datetime = Field(description="When it came into this state.")
    heard_at: datetime | None = Field(description="Last heartbeat, about; null: never.")
    instances: int = Field(description="Instances that belong to it, by the ledger.")
    reason: str = Field(description="Why it is in this state.")
    on_release: str = Field(description="What becomes of it when the storm is released.")


class StormView(View):
    storm: bool
    reason: str
    since: datetime | None
    released_at: datetime | None = Field(description="The last release; null: never.")
    silent_nodes: list[str]
    nodes: list[SilentNodeView] = Field(description="The same ones, with what is known of them.")
    release: str = Field(description="What a release would do now, in words.")


class Applied(View):
    """What apply did, by section; all of it, or nothing."""

    created: dict[str, list[str]]
    changed: dict[str, list[str]]
    unchanged: dict[str, list[str]]


class Kept(View):
    name: str
    why: str


class Deleted(View):
    deleted: dict[str, list[str]]
    absent: dict[str, list[str]] = Field(description="Named, but not there: nothing to do.")
    kept: dict[str, list[Kept]]
    operations: list[OperationView] = Field(description="One per instance; follow them to the end.")
