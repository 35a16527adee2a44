"""Create the tables, and the two rows that always exist."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from evac_common.store.columns import Json, UtcTime

revision = "0001"
down_revision = None


_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _api_token()
    _audit()
    _cluster_flags()
    _cluster_wish()
    _command()
    _event()
    _fence_attempt()
    _idempotency_key()
    _instance_spec()
    _instance_status()
    _wish_outcome("monitor")
    _node_facts()
    _node_spec()
    _node_state()
    _node_wish()
    _operation()
    _outbox()
    _planning_lock()
    _pool()
    _proof_node()
    _proof_release()
    _reservation()
    _wish_outcome("scheduler")
    _evacuation()
    _ownership()
    _evacuation_item()
    if op.get_bind().dialect.name == "postgresql":
        op.create_foreign_key(
            "fk_proof_release_instance_id_epoch",
            "proof_release",
            "ownership",
            ["instance_id", "epoch"],
            ["instance_id", "epoch"],
        )
    op.execute("INSERT INTO planning_lock (id) VALUES (1)")
    op.execute(
        "INSERT INTO cluster_flags (id, term, database_identity, storm, storm_reason, "
        "disarmed_reason, recovering) VALUES (1, 1, '', false, '', '', false)"
    )


def _released_epoch() -> tuple[sa.ForeignKeyConstraint, ...]:
    """On SQLite, which adds no constraint later, but accepts one before its target exists."""
    if op.get_bind().dialect.name == "postgresql":
        return ()
    return (
        sa.ForeignKeyConstraint(
            ["instance_id", "epoch"],
            ["ownership.instance_id", "ownership.epoch"],
            name="fk_proof_release_instance_id_epoch",
        ),
    )


def _api_token() -> None:
    op.create_table(
        "api_token",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("revoked_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_token"),
        sa.UniqueConstraint("digest", name="uq_api_token_digest"),
        sa.UniqueConstraint("name", name="uq_api_token_name"),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("sequence", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("service", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", Json, nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit"),
    )
    op.create_index("ix_audit_subject", "audit", ["subject", "sequence"])


def _cluster_flags() -> None:
    op.create_table(
        "cluster_flags",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("database_identity", sa.String(length=128), nullable=False),
        sa.Column("storm", sa.Boolean(), nullable=False),
        sa.Column("storm_reason", sa.Text(), nullable=False),
        sa.Column("storm_since", UtcTime(), nullable=True),
        sa.Column("storm_released_at", UtcTime(), nullable=True),
        sa.Column("disarmed_until", UtcTime(), nullable=True),
        sa.Column("disarmed_reason", sa.Text(), nullable=False),
        sa.Column("recovering", sa.Boolean(), nullable=False),
        sa.Column("last_fencing_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_cluster_flags"),
    )


def _cluster_wish() -> None:
    op.create_table(
        "cluster_wish",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("verb", sa.String(length=32), nullable=False),
        sa.Column("arguments", Json, nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("operation_id", sa.String(length=32), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cluster_wish"),
    )


def _command() -> None:
    op.create_table(
        "command",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("instance_id", sa.String(length=32), nullable=False),
        sa.Column("verb", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("deadline", UtcTime(), nullable=True),
        sa.Column("headers", Json, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("sent", sa.Integer(), nullable=False),
        sa.Column("next_at", UtcTime(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_command"),
        sa.UniqueConstraint(
            "instance_id", "verb", "epoch", "run", name="uq_command_instance_id_verb_epoch_run"
        ),
    )
    op.create_index("ix_command_instance_id", "command", ["instance_id"])
    op.create_index("ix_command_node_id", "command", ["node_id"])


def _event() -> None:
    op.create_table(
        "event",
        sa.Column("sequence", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("event_id", sa.String(length=32), nullable=False),
        sa.Column("service", sa.String(length=16), nullable=False),
        sa.Column("type", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("alarm", sa.Boolean(), nullable=False),
        sa.Column("body", Json, nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_event"),
        sa.UniqueConstraint("event_id", name="uq_event_event_id"),
    )
    op.create_index("ix_event_subject", "event", ["subject", "sequence"])


def _fence_attempt() -> None:
    op.create_table(
        "fence_attempt",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("monitor", sa.String(length=128), nullable=False),
        sa.Column("started_at", UtcTime(), nullable=False),
        sa.Column("finished_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_fence_attempt"),
    )
    op.create_index(
        "ix_fence_attempt_node_id_incarnation", "fence_attempt", ["node_id", "incarnation"]
    )


def _idempotency_key() -> None:
    op.create_table(
        "idempotency_key",
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("response", Json, nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("key", "actor", name="pk_idempotency_key"),
    )


def _instance_spec() -> None:
    op.create_table(
        "instance_spec",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("manifest", Json, nullable=False),
        sa.Column("run_strategy", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", UtcTime(), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_instance_spec"),
        sa.UniqueConstraint("name", name="uq_instance_spec_name"),
    )


def _instance_status() -> None:
    op.create_table(
        "instance_status",
        sa.Column("instance_id", sa.String(length=32), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        sa.Column("run", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("candidates", Json, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", UtcTime(), nullable=True),
        sa.Column("observed_at", UtcTime(), nullable=True),
        sa.Column("changed_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("instance_id", name="pk_instance_status"),
    )


def _wish_outcome(owner: str) -> None:
    op.create_table(
        f"{owner}_wish_outcome",
        sa.Column("wish_id", sa.String(length=32), nullable=False),
        sa.Column("result", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("wish_id", name=f"pk_{owner}_wish_outcome"),
    )


def _node_facts() -> None:
    op.create_table(
        "node_facts",
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("dmi_uuid", sa.String(length=64), nullable=False),
        sa.Column("boot_id", sa.String(length=64), nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("daemon_version", sa.String(length=64), nullable=False),
        sa.Column("hypervisor", sa.String(length=128), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mib", sa.BigInteger(), nullable=False),
        sa.Column("bridges", Json, nullable=False),
        sa.Column("inventory", Json, nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_node_facts"),
    )


def _node_spec() -> None:
    op.create_table(
        "node_spec",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mib", sa.BigInteger(), nullable=False),
        sa.Column("labels", Json, nullable=False),
        sa.Column("bridges", Json, nullable=False),
        sa.Column("dmi_uuid", sa.String(length=36), nullable=True),
        sa.Column("power", Json, nullable=True),
        sa.Column("power_secret", sa.LargeBinary(), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_node_spec"),
        sa.UniqueConstraint("name", name="uq_node_spec_name"),
    )


def _node_state() -> None:
    op.create_table(
        "node_state",
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", UtcTime(), nullable=False),
        sa.Column("heard_at", UtcTime(), nullable=True),
        sa.Column("session_command_id", sa.String(length=32), nullable=True),
        sa.Column("decision", Json, nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_node_state"),
    )


def _node_wish() -> None:
    op.create_table(
        "node_wish",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("verb", sa.String(length=32), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("operation_id", sa.String(length=32), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_node_wish"),
    )
    op.create_index("ix_node_wish_node_id", "node_wish", ["node_id"])


def _operation() -> None:
    op.create_table(
        "operation",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("verb", sa.String(length=32), nullable=False),
        sa.Column("target_kind", sa.String(length=16), nullable=False),
        sa.Column("target_id", sa.String(length=63), nullable=False),
        sa.Column("target_name", sa.String(length=63), nullable=False),
        sa.Column("wish_id", sa.String(length=32), nullable=True),
        sa.Column("goal_generation", sa.BigInteger(), nullable=True),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_operation"),
    )
    op.create_index("ix_operation_open", "operation", ["state", "created_at"])


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("sequence", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("service", sa.String(length=16), nullable=False),
        sa.Column("message_id", sa.String(length=32), nullable=False),
        sa.Column("exchange", sa.String(length=64), nullable=False),
        sa.Column("routing_key", sa.String(length=255), nullable=False),
        sa.Column("headers", Json, nullable=False),
        sa.Column("content_type", sa.String(length=64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("sent_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("sequence", name="pk_outbox"),
    )
    op.create_index("ix_outbox_unsent", "outbox", ["service", "sent_at", "sequence"])


def _planning_lock() -> None:
    op.create_table(
        "planning_lock",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("planned_at", UtcTime(), nullable=True),
        sa.Column("took_s", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_planning_lock"),
    )


def _pool() -> None:
    op.create_table(
        "pool",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("source", sa.String(length=1024), nullable=False),
        sa.Column("lock_scope", sa.String(length=8), nullable=False),
        sa.Column("nodes", Json, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pool"),
        sa.UniqueConstraint("name", name="uq_pool_name"),
    )


def _proof_node() -> None:
    op.create_table(
        "proof_node",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("evidence", Json, nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_proof_node"),
        sa.UniqueConstraint("node_id", "incarnation", name="uq_proof_node_node_id_incarnation"),
    )


def _proof_release() -> None:
    op.create_table(
        "proof_release",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("instance_id", sa.String(length=32), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        *_released_epoch(),
        sa.PrimaryKeyConstraint("id", name="pk_proof_release"),
        sa.UniqueConstraint("instance_id", "epoch", name="uq_proof_release_instance_id_epoch"),
    )


def _reservation() -> None:
    op.create_table(
        "reservation",
        sa.Column("instance_id", sa.String(length=32), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mib", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("instance_id", name="pk_reservation"),
    )
    op.create_index("ix_reservation_node_id", "reservation", ["node_id"])


def _evacuation() -> None:
    op.create_table(
        "evacuation",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("proof_id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("finished_at", UtcTime(), nullable=True),
        sa.ForeignKeyConstraint(["proof_id"], ["proof_node.id"], name="fk_evacuation_proof_id"),
        sa.PrimaryKeyConstraint("id", name="pk_evacuation"),
        sa.UniqueConstraint("node_id", "incarnation", name="uq_evacuation_node_id_incarnation"),
    )


def _ownership() -> None:
    op.create_table(
        "ownership",
        sa.Column("instance_id", sa.String(length=32), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("proof_node_id", sa.String(length=32), nullable=True),
        sa.Column("proof_release_id", sa.String(length=32), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["proof_node_id"], ["proof_node.id"], name="fk_ownership_proof_node_id"
        ),
        sa.ForeignKeyConstraint(
            ["proof_release_id"], ["proof_release.id"], name="fk_ownership_proof_release_id"
        ),
        sa.PrimaryKeyConstraint("instance_id", "epoch", name="pk_ownership"),
    )
    op.create_index("ix_ownership_node_id_incarnation", "ownership", ["node_id", "incarnation"])


def _evacuation_item() -> None:
    op.create_table(
        "evacuation_item",
        sa.Column("evacuation_id", sa.String(length=32), nullable=False),
        sa.Column("instance_id", sa.String(length=32), nullable=False),
        sa.Column("source_epoch", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("target_node_id", sa.String(length=32), nullable=True),
        sa.Column("target_epoch", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", UtcTime(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("candidates", Json, nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evacuation_id"], ["evacuation.id"], name="fk_evacuation_item_evacuation_id"
        ),
        sa.PrimaryKeyConstraint("evacuation_id", "instance_id", name="pk_evacuation_item"),
    )
    op.create_index("ix_evacuation_item_instance_id", "evacuation_item", ["instance_id"])
    op.create_index("ix_evacuation_item_state", "evacuation_item", ["state"])
