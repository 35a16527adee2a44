"""Which nodes live, and what is proven about the dead. Only writer: monitor."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from evac_common.store.columns import Json, UtcTime, id_column, metadata

OWNER = "monitor"

node_state = Table(
    "node_state",
    metadata,
    id_column("node_id", primary_key=True),
    Column("state", String(16), nullable=False),  # NodeState
    Column("term", BigInteger, nullable=False),  # gen of the session; 0: never registered
    Column("incarnation", BigInteger, nullable=False),
    Column(
        "generation", BigInteger, nullable=False
    ),  # +1 at every transition: late answers do not match
    Column("reason", Text, nullable=False),  # why it is in this state
    Column("since", UtcTime, nullable=False),
    Column(
        "heard_at", UtcTime
    ),  # last heartbeat that any monitor heard, its wall clock; written every few seconds
    id_column(
        "session_command_id", nullable=True
    ),  # the session command of this gen, re-sent unchanged
    Column("decision", Json, nullable=False),  # last gate decision: [{"gate", "open", "why"}]
    Column(
        "troubles", Json, nullable=False, server_default=text("'[]'")
    ),  # why it is degraded: [{"reason", "why"}], by reason
    Column(
        "isolated", Boolean, nullable=False, server_default=false()
    ),  # silent, but a second channel shows it alive
    Column(
        "found_off", Boolean, nullable=False, server_default=false()
    ),  # its BMC read Off before the decision to fence: it counts in no blast radius
    # The recovery during which it was proven down; 0: none. A proof from before says nothing about
    # what the node has done in the history that the database forgot.
    Column("down_term", BigInteger, nullable=False, server_default=text("0")),
    # The term in which it was decided to cut it off; 0: never. While recovering, what was decided
    # in an earlier one switches nothing off.
    Column("doomed_term", BigInteger, nullable=False, server_default=text("0")),
)

node_facts = Table(
    "node_facts",
    metadata,
    id_column("node_id", primary_key=True),
    Column("dmi_uuid", String(64), nullable=False),
    Column("boot_id", String(64), nullable=False),
    Column("hostname", String(255), nullable=False),
    Column("daemon_version", String(64), nullable=False),
    Column("hypervisor", String(128), nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mib", BigInteger, nullable=False),
    Column("bridges", Json, nullable=False),
    Column("inventory", Json, nullable=False),  # [DomainSeen] at registration
    Column("updated_at", UtcTime, nullable=False),
)

# Covers every ledger row of the node with an incarnation up to this one. Insert only.
proof_node = Table(
    "proof_node",
    metadata,
    id_column(primary_key=True),
    id_column("node_id", nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),  # ProofKind
    Column("evidence", Json, nullable=False),  # what was read, when; operator: name and reason
    Column("actor", String(128), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    UniqueConstraint("node_id", "incarnation"),
)

fence_attempt = Table(
    "fence_attempt",
    metadata,
    id_column(primary_key=True),
    id_column("node_id", nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("method", String(16), nullable=False),  # power
    Column("number", Integer, nullable=False),  # 1, 2, 3
    Column("state", String(16), nullable=False),  # running, proven, failed, abandoned
    Column("detail", Text, nullable=False),
    Column("monitor", String(128), nullable=False),  # who tries
    Column(
        "term", BigInteger, nullable=False, server_default=text("0")
    ),  # in which this monitor began, or took it over: its readings are of this term or later
    Column("started_at", UtcTime, nullable=False),
    Column("finished_at", UtcTime),
    Index("ix_fence_attempt_node_id_incarnation", "node_id", "incarnation"),
)

# One row. `storm`, `disarmed` and `recovering` are independent.
cluster_flags = Table(
    "cluster_flags",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "term", BigInteger, nullable=False
    ),  # +1 whenever the database may have gone back in time
    Column("database_identity", String(128), nullable=False),
    Column("storm", Boolean, nullable=False),
    Column("storm_reason", Text, nullable=False),
    Column("storm_since", UtcTime),
    Column(
        "storm_released_at", UtcTime
    ),  # fencings before it do not count towards the blast radius
    Column("disarmed_until", UtcTime),
    Column("disarmed_reason", Text, nullable=False),
    Column("disarmed_said_at", UtcTime),  # when it was last said that fencing is disarmed
    # The database went back in time: nothing is started, evacuated or cut off until it is known
    # what runs where.
    Column("recovering", Boolean, nullable=False),
    Column("recovering_reason", Text, nullable=False, server_default=""),
    Column("recovering_since", UtcTime),
    Column("last_fencing_at", UtcTime),  # rate: one new fencing per fence_interval_s
)

monitor_wish_outcome = Table(
    "monitor_wish_outcome",
    metadata,
    id_column("wish_id", primary_key=True),
    Column("result", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

TABLES = (node_state, node_facts, proof_node, fence_attempt, cluster_flags, monitor_wish_outcome)
