"""Where each instance belongs: the ledger, evacuations, commands, status. Only writer: scheduler.

The ledger's rules stand in the migrations as triggers, so that the database itself refuses an owner
without a proof, whoever asks.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from evac_common.store.columns import Json, UtcTime, id_column, metadata

OWNER = "scheduler"

# Insert only, but for `run`, which only rises. The row with the highest epoch names the owner.
ownership = Table(
    "ownership",
    metadata,
    id_column("instance_id", nullable=False),
    Column("epoch", BigInteger, nullable=False),
    id_column("node_id", nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("run", BigInteger, nullable=False),
    # Exactly one of the two from epoch 2 on: the previous owner is dead, or it released its epoch.
    id_column("proof_node_id", ForeignKey("proof_node.id"), nullable=True),
    id_column("proof_release_id", ForeignKey("proof_release.id"), nullable=True),
    Column("created_at", UtcTime, nullable=False),
    # Instead of both: an epoch that the database had forgotten, taken over from its node's word.
    id_column("proof_adoption_id", ForeignKey("proof_adoption.id"), nullable=True),
    PrimaryKeyConstraint("instance_id", "epoch"),
    Index("ix_ownership_node_id_incarnation", "node_id", "incarnation"),
)

# An owner's own word, given after its tombstone was on disk, that an epoch is over.
proof_release = Table(
    "proof_release",
    metadata,
    id_column(primary_key=True),
    id_column("instance_id", nullable=False),
    Column("epoch", BigInteger, nullable=False),
    id_column("node_id", nullable=False),
    Column("kind", String(16), nullable=False),  # ReleaseKind
    Column("evidence", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    UniqueConstraint("instance_id", "epoch"),
    # The two tables refer to each other; this half is added when both exist.
    ForeignKeyConstraint(
        ["instance_id", "epoch"], ["ownership.instance_id", "ownership.epoch"], use_alter=True
    ),
)

# A database that went back in time: an epoch it does not know, shown by the node that has it, after
# every registered node has shown what it has. The trigger refuses anything less. Insert only.
proof_adoption = Table(
    "proof_adoption",
    metadata,
    id_column(primary_key=True),
    id_column("instance_id", nullable=False),
    Column("epoch", BigInteger, nullable=False),
    id_column("node_id", nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("evidence", Json, nullable=False),  # what was shown, and what the ledger said before
    Column("created_at", UtcTime, nullable=False),
    UniqueConstraint("instance_id", "epoch"),
)

# The session in which a node's newest inventory was taken: its word counts for that term.
node_inventory = Table(
    "node_inventory",
    metadata,
    id_column("node_id", primary_key=True),
    Column("term", BigInteger, nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("taken_at", UtcTime, nullable=False),
)

# A domain that a node shows: while the cluster is recovering every one, else only those that the
# ledger does not explain. While one is here, its instance is started nowhere.
sighting = Table(
    "sighting",
    metadata,
    id_column("instance_id", nullable=False),
    id_column("node_id", nullable=False, index=True),
    Column("epoch", BigInteger, nullable=False),
    Column("run", BigInteger, nullable=False),
    Column("running", Boolean, nullable=False),
    Column("term", BigInteger, nullable=False),  # of the session in which it was shown
    Column("incarnation", BigInteger, nullable=False),
    Column("explained", Boolean, nullable=False),  # the ledger knows it as this node's, or as over
    Column("judged_term", BigInteger, nullable=False),  # the recovery that left it alone; 0: none
    Column("seen_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("instance_id", "node_id"),
)

# The scheduler's part of a recovery is done: every node was heard, and epochs were adopted.
recovery = Table(
    "recovery",
    metadata,
    Column("term", BigInteger, primary_key=True, autoincrement=False),
    Column("adopted", Integer, nullable=False),
    Column("left_alone", Integer, nullable=False),  # shown, and not adopted: an operator decides
    Column("finished_at", UtcTime, nullable=False),
)

# Capacity promised on a node to an item that has no ledger row there yet.
reservation = Table(
    "reservation",
    metadata,
    id_column("instance_id", primary_key=True),
    id_column("node_id", nullable=False, index=True),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mib", BigInteger, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

evacuation = Table(
    "evacuation",
    metadata,
    id_column(primary_key=True),
    id_column("node_id", nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    id_column("proof_id", ForeignKey("proof_node.id"), nullable=False),
    Column("state", String(8), nullable=False),  # EvacuationState
    Column("created_at", UtcTime, nullable=False),
    Column("finished_at", UtcTime),
    UniqueConstraint("node_id", "incarnation"),
)

evacuation_item = Table(
    "evacuation_item",
    metadata,
    id_column("evacuation_id", ForeignKey("evacuation.id"), nullable=False),
    id_column("instance_id", nullable=False, index=True),
    Column("source_epoch", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),  # ItemState
    id_column("target_node_id", nullable=True),
    Column("target_epoch", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("next_at", UtcTime),  # not before; None: at once
    Column("reason", Text, nullable=False),  # why it is in this state
    Column("candidates", Json, nullable=False),  # [{"node", "verdict", "why"}] of the last plan
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("evacuation_id", "instance_id"),
    Index("ix_evacuation_item_state", "state"),
)

instance_status = Table(
    "instance_status",
    metadata,
    id_column("instance_id", primary_key=True),
    Column("phase", String(16), nullable=False),  # Phase
    id_column("node_id", nullable=True),
    Column("epoch", BigInteger),
    Column("run", BigInteger),
    Column("reason", Text, nullable=False),  # why it is in this phase, what it waits for
    Column("candidates", Json, nullable=False),  # of the last placement, as in evacuation_item
    Column("attempts", Integer, nullable=False),  # failed starts since it last ran
    Column("next_at", UtcTime),  # back-off: no start before
    Column("observed_at", UtcTime),  # when a report last confirmed it
    Column("changed_at", UtcTime, nullable=False),
)

# Commands that are not answered yet. Re-sent unchanged while gen and deadline hold.
command = Table(
    "command",
    metadata,
    id_column(primary_key=True),
    id_column("node_id", nullable=False, index=True),
    id_column("instance_id", nullable=False, index=True),
    Column("verb", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("run", BigInteger, nullable=False),  # 0 for stop and destroy
    Column("term", BigInteger, nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("deadline", UtcTime),
    Column("headers", Json, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("sent", Integer, nullable=False),  # how often it was put into the outbox
    Column("next_at", UtcTime, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    UniqueConstraint("instance_id", "verb", "epoch", "run"),
)

# One row, locked by whoever plans: two planners must not promise the same room.
planning_lock = Table(
    "planning_lock",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("planned_at", UtcTime),
    Column("took_s", Float),
)

scheduler_wish_outcome = Table(
    "scheduler_wish_outcome",
    metadata,
    id_column("wish_id", primary_key=True),
    Column("result", String(16), nullable=False),  # OperationState: succeeded or failed
    Column("reason", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

TABLES = (
    ownership,
    proof_release,
    proof_adoption,
    node_inventory,
    sighting,
    recovery,
    reservation,
    evacuation,
    evacuation_item,
    instance_status,
    command,
    planning_lock,
    scheduler_wish_outcome,
)
