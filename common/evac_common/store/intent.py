"""What users want. Only writer: api."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, String, Table, Text

from evac_common.store.columns import Json, UtcTime, id_column, metadata

OWNER = "api"

instance_spec = Table(
    "instance_spec",
    metadata,
    id_column(primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("manifest", Json, nullable=False),  # InstanceManifest, as JSON
    Column("run_strategy", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False),  # +1 at every change; the ETag of REST
    Column("deleted_at", UtcTime),  # set: to be stopped, then its record goes
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
)

pool = Table(
    "pool",
    metadata,
    id_column(primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("kind", String(8), nullable=False),
    Column("source", String(1024), nullable=False),
    Column("lock_scope", String(8), nullable=False),
    Column("nodes", Json, nullable=False),  # list of node ids
    Column("generation", BigInteger, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
)

node_spec = Table(
    "node_spec",
    metadata,
    id_column(primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mib", BigInteger, nullable=False),
    Column("labels", Json, nullable=False),
    Column("bridges", Json, nullable=False),
    Column("dmi_uuid", String(36)),  # unset: the first registration decides (node_facts.dmi_uuid)
    Column("power", Json),  # kind, address, port, username; None: no BMC
    Column("power_secret", LargeBinary),  # encrypted with the key of the file credential
    Column("generation", BigInteger, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
)

# A wish about a node: api writes it, the owner of the matter answers in its wish_outcome.
node_wish = Table(
    "node_wish",
    metadata,
    id_column(primary_key=True),
    id_column(
        "node_id", nullable=False, index=True
    ),  # no foreign key: it outlives a forgotten node
    Column(
        "verb", String(32), nullable=False
    ),  # fence, confirm_down (monitor); evacuate (scheduler)
    Column("actor", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    id_column("operation_id", nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

cluster_wish = Table(
    "cluster_wish",
    metadata,
    id_column(primary_key=True),
    Column("verb", String(32), nullable=False),  # disarm, arm, storm_release (monitor)
    Column("arguments", Json, nullable=False),  # disarm: {"for_s": 3600}
    Column("actor", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    id_column("operation_id", nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

operation = Table(
    "operation",
    metadata,
    id_column(primary_key=True),
    Column("verb", String(32), nullable=False),  # instance.start, node.fence, cluster.disarm ...
    Column("target_kind", String(16), nullable=False),  # instance, node, cluster
    Column("target_id", String(63), nullable=False),
    Column("target_name", String(63), nullable=False),
    Column("wish_id", String(32)),
    Column("goal_generation", BigInteger),  # instance verbs: superseded when the spec moved on
    Column("actor", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    Column("request_id", String(64)),
    Column("state", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Index("ix_operation_open", "state", "created_at"),
)

idempotency_key = Table(
    "idempotency_key",
    metadata,
    Column("key", String(128), primary_key=True),
    Column("actor", String(128), primary_key=True),
    Column(
        "digest", String(64), nullable=False
    ),  # of method, path and body: another request is a 422
    Column("status", Integer, nullable=False),
    Column("response", Json, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

api_token = Table(
    "api_token",
    metadata,
    id_column(primary_key=True),
    Column("name", String(128), nullable=False, unique=True),  # the actor in audit rows
    Column(
        "digest", String(64), nullable=False, unique=True
    ),  # sha256 of the token; the token is random
    Column("created_at", UtcTime, nullable=False),
    Column("revoked_at", UtcTime),
)

TABLES = (
    instance_spec,
    pool,
    node_spec,
    node_wish,
    cluster_wish,
    operation,
    idempotency_key,
    api_token,
)
