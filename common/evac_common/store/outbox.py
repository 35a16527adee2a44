"""Outbox, events and audit: every service inserts its own rows, with the change itself."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, String, Table, Text

from evac_common.store.columns import Json, UtcTime, metadata

OWNER = "each its own rows"

_Sequence = BigInteger().with_variant(
    Integer(), "sqlite"
)  # SQLite numbers only INTEGER keys itself

outbox = Table(
    "outbox",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=True),
    Column("service", String(16), nullable=False),
    Column("message_id", String(32), nullable=False),
    Column("exchange", String(64), nullable=False),
    Column("routing_key", String(255), nullable=False),
    Column("headers", Json, nullable=False),
    Column("content_type", String(64), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("sent_at", UtcTime),  # marked by the relay of `service`
    Index("ix_outbox_unsent", "service", "sent_at", "sequence"),
)

event = Table(
    "event",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=True),  # SSE id; may have gaps
    Column("event_id", String(32), nullable=False, unique=True),
    Column("service", String(16), nullable=False),
    Column("type", String(128), nullable=False),  # CloudEvents type
    Column("name", String(64), nullable=False),  # node.down
    Column("subject", String(64), nullable=False),
    Column("alarm", Boolean, nullable=False),
    Column("body", Json, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Index("ix_event_subject", "subject", "sequence"),
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=True),
    Column("service", String(16), nullable=False),
    Column("actor", String(128), nullable=False),  # a token's name, or the service itself
    Column("action", String(64), nullable=False),  # node.state, item.state, ledger.assign, wish ...
    Column("subject", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Json, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Index("ix_audit_subject", "subject", "sequence"),
)

TABLES = (outbox, event, audit)
