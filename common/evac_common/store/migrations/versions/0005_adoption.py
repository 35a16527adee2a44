"""A database that went back in time: what nodes show, and ledger rows adopted from it.

Ownership that was forgotten is adopted from the nodes' own word, under rules as strict as those of
an ordinary owner, and here again as triggers: only while the cluster is recovering, in its present
term, after every registered node has shown what it has or was proven down since, for an epoch above
the ledger's, and while no other node shows a copy that may be the living one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from evac_common.store.columns import Json, UtcTime

revision = "0005"
down_revision = "0004"

_LOCK = 0x65766163  # as in 0002: proofs and assignments of one node exclude one another

# What decides, as conditions that read the same in both databases' triggers.
_NOT_RECOVERING = """NOT EXISTS (SELECT 1 FROM cluster_flags
      WHERE id = 1 AND recovering AND term = NEW.term)"""
_NOT_IN_SESSION = """NOT EXISTS (SELECT 1 FROM node_state
      WHERE node_id = NEW.node_id AND term = NEW.term AND incarnation = NEW.incarnation)"""
_NOT_SHOWN = """NOT EXISTS (SELECT 1 FROM sighting
      WHERE instance_id = NEW.instance_id AND node_id = NEW.node_id AND epoch = NEW.epoch
        AND term = NEW.term AND incarnation = NEW.incarnation)"""
_PROVEN_DEAD = """EXISTS (SELECT 1 FROM proof_node
      WHERE node_id = NEW.node_id AND incarnation >= NEW.incarnation)"""
_NOT_ABOVE = """EXISTS (SELECT 1 FROM ownership
      WHERE instance_id = NEW.instance_id AND epoch >= NEW.epoch)"""
_SOMEBODY_UNHEARD = """EXISTS (SELECT 1 FROM node_state AS node
      WHERE node.state <> 'new' AND node.down_term <> NEW.term
        AND NOT EXISTS (SELECT 1 FROM node_inventory AS shown
          WHERE shown.node_id = node.node_id AND shown.term = NEW.term
            AND node.term = NEW.term AND shown.incarnation = node.incarnation))"""
# A copy on another node is no rival when the ledger itself says that its epoch is over.
_RIVAL = """EXISTS (SELECT 1 FROM sighting AS other
      WHERE other.instance_id = NEW.instance_id AND other.node_id <> NEW.node_id
        AND other.term = NEW.term
        AND NOT EXISTS (SELECT 1 FROM ownership AS later
          WHERE later.instance_id = NEW.instance_id AND later.epoch > other.epoch)
        AND NOT EXISTS (SELECT 1 FROM proof_release AS release
          WHERE release.instance_id = NEW.instance_id AND release.epoch = other.epoch)
        AND NOT EXISTS (SELECT 1 FROM proof_node AS proof JOIN ownership AS last
            ON last.node_id = proof.node_id AND last.incarnation <= proof.incarnation
          WHERE last.instance_id = NEW.instance_id AND last.epoch = other.epoch))"""

_ADOPTION_RULES = (
    ("evac: unproven: nothing is adopted but while recovering, in this term", _NOT_RECOVERING),
    ("evac: unproven: the node is in another session", _NOT_IN_SESSION),
    ("evac: unproven: the node does not show this epoch", _NOT_SHOWN),
    ("evac: ledger: the node''s incarnation is proven dead", _PROVEN_DEAD),
    ("evac: conflict: the instance has this epoch or a later one", _NOT_ABOVE),
    ("evac: unproven: a node has neither shown what it has nor is proven down", _SOMEBODY_UNHEARD),
    ("evac: unproven: another node shows a copy that may be the living one", _RIVAL),
)
_NOT_ADOPTED = """NOT EXISTS (SELECT 1 FROM proof_adoption
      WHERE id = NEW.proof_adoption_id AND instance_id = NEW.instance_id AND epoch = NEW.epoch
        AND node_id = NEW.node_id AND incarnation = NEW.incarnation AND term = NEW.term)"""


def _refuse_sqlite(rules: tuple[tuple[str, str], ...]) -> str:
    return "\n".join(f"  SELECT RAISE(ABORT, '{why}') WHERE {rule};" for why, rule in rules)


_SQLITE = (
    "DROP TRIGGER ownership_insert",
    "DROP TRIGGER ownership_update",
    f"""
CREATE TRIGGER ownership_insert BEFORE INSERT ON ownership BEGIN
  SELECT RAISE(ABORT, 'evac: ledger: epoch, run, incarnation and term are integers')
    WHERE typeof(NEW.epoch) <> 'integer' OR typeof(NEW.run) <> 'integer'
      OR typeof(NEW.incarnation) <> 'integer' OR typeof(NEW.term) <> 'integer';
  SELECT RAISE(ABORT, 'evac: ledger: the first epoch is 1') WHERE NEW.epoch < 1;
  SELECT RAISE(ABORT, 'evac: conflict: the instance has this epoch or a later one')
    WHERE {_NOT_ABOVE};
  SELECT RAISE(ABORT, 'evac: ledger: the new owner''s incarnation is proven dead')
    WHERE {_PROVEN_DEAD};
  SELECT RAISE(ABORT, 'evac: ledger: the first epoch follows nobody and takes no proof')
    WHERE NEW.epoch = 1 AND (NEW.proof_node_id IS NOT NULL OR NEW.proof_release_id IS NOT NULL);
  SELECT RAISE(ABORT, 'evac: unproven: an adopted epoch takes no other proof')
    WHERE NEW.proof_adoption_id IS NOT NULL
      AND (NEW.proof_node_id IS NOT NULL OR NEW.proof_release_id IS NOT NULL);
  SELECT RAISE(ABORT, 'evac: unproven: this epoch of this node was not adopted')
    WHERE NEW.proof_adoption_id IS NOT NULL AND ({_NOT_ADOPTED} OR {_NOT_RECOVERING});
  SELECT RAISE(ABORT, 'evac: unproven: the epoch before does not exist')
    WHERE NEW.epoch > 1 AND NEW.proof_adoption_id IS NULL AND NOT EXISTS (SELECT 1 FROM ownership
      WHERE instance_id = NEW.instance_id AND epoch = NEW.epoch - 1);
  SELECT RAISE(ABORT, 'evac: unproven: exactly one proof is needed')
    WHERE NEW.epoch > 1 AND NEW.proof_adoption_id IS NULL
      AND (NEW.proof_node_id IS NULL) = (NEW.proof_release_id IS NULL);
  SELECT RAISE(ABORT, 'evac: unproven: the proof is not about the previous owner')
    WHERE NEW.epoch > 1 AND NEW.proof_node_id IS NOT NULL AND NOT EXISTS (
      SELECT 1 FROM proof_node AS proof
      JOIN ownership AS previous
        ON previous.instance_id = NEW.instance_id AND previous.epoch = NEW.epoch - 1
      WHERE proof.id = NEW.proof_node_id AND proof.node_id = previous.node_id
        AND proof.incarnation >= previous.incarnation);
  SELECT RAISE(ABORT, 'evac: unproven: the release is not of the previous epoch')
    WHERE NEW.epoch > 1 AND NEW.proof_release_id IS NOT NULL AND NOT EXISTS (
      SELECT 1 FROM proof_release
      WHERE id = NEW.proof_release_id AND instance_id = NEW.instance_id
        AND epoch = NEW.epoch - 1);
END
""",  # noqa: S608 - this file's own constants
    """
CREATE TRIGGER ownership_update BEFORE UPDATE ON ownership
WHEN NOT (NEW.instance_id IS OLD.instance_id AND NEW.epoch IS OLD.epoch
  AND NEW.node_id IS OLD.node_id AND NEW.term IS OLD.term
  AND NEW.incarnation IS OLD.incarnation AND NEW.proof_node_id IS OLD.proof_node_id
  AND NEW.proof_release_id IS OLD.proof_release_id
  AND NEW.proof_adoption_id IS OLD.proof_adoption_id AND NEW.created_at IS OLD.created_at
  AND typeof(NEW.run) = 'integer' AND NEW.run > OLD.run)
BEGIN SELECT RAISE(ABORT, 'evac: ledger: nothing changes in an epoch but a rising run'); END
""",
    f"""
CREATE TRIGGER proof_adoption_insert BEFORE INSERT ON proof_adoption BEGIN
  SELECT RAISE(ABORT, 'evac: ledger: epoch, incarnation and term are integers')
    WHERE typeof(NEW.epoch) <> 'integer' OR typeof(NEW.incarnation) <> 'integer'
      OR typeof(NEW.term) <> 'integer';
  SELECT RAISE(ABORT, 'evac: conflict: this adoption exists')
    WHERE EXISTS (SELECT 1 FROM proof_adoption WHERE id = NEW.id
      OR (instance_id = NEW.instance_id AND epoch = NEW.epoch));
{_refuse_sqlite(_ADOPTION_RULES)}
END
""",  # noqa: S608 - this file's own constants
    *(
        f"CREATE TRIGGER proof_adoption_{verb.lower()} BEFORE {verb} ON proof_adoption "
        "BEGIN SELECT RAISE(ABORT, 'evac: ledger: rows of proof_adoption stay as they are'); "
        "END"
        for verb in ("UPDATE", "DELETE")
    ),
)

_CODES = {
    "evac: unproven": "check_violation",
    "evac: ledger": "check_violation",
    "evac: conflict": "unique_violation",
}


def _refuse_postgresql(rules: tuple[tuple[str, str], ...]) -> str:
    return "\n".join(
        f"  IF {rule} THEN\n    RAISE EXCEPTION '{why}' USING ERRCODE = '{code}';\n  END IF;"
        for why, rule in rules
        for start, code in _CODES.items()
        if why.startswith(start)
    )


_HEAD = "RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, {schema}, pg_temp AS $$"
_OWNER_RULES = (
    ("evac: ledger: the first epoch is 1", "NEW.epoch < 1"),
    ("evac: conflict: the instance has this epoch or a later one", _NOT_ABOVE),
    ("evac: ledger: the new owner''s incarnation is proven dead", _PROVEN_DEAD),
    (
        "evac: ledger: the first epoch follows nobody and takes no proof",
        "NEW.epoch = 1 AND (NEW.proof_node_id IS NOT NULL OR NEW.proof_release_id IS NOT NULL)",
    ),
    (
        "evac: unproven: an adopted epoch takes no other proof",
        (
            "NEW.proof_adoption_id IS NOT NULL"
            " AND (NEW.proof_node_id IS NOT NULL OR NEW.proof_release_id IS NOT NULL)"
        ),
    ),
    (
        "evac: unproven: this epoch of this node was not adopted",
        f"NEW.proof_adoption_id IS NOT NULL AND ({_NOT_ADOPTED} OR {_NOT_RECOVERING})",
    ),
)
_LATER_RULES = (
    (
        "evac: unproven: the epoch before does not exist",
        (
            "NOT EXISTS (SELECT 1 FROM ownership"
            " WHERE instance_id = NEW.instance_id AND epoch = NEW.epoch - 1)"
        ),
    ),
    (
        "evac: unproven: exactly one proof is needed",
        "(NEW.proof_node_id IS NULL) = (NEW.proof_release_id IS NULL)",
    ),
    (
        "evac: unproven: the proof is not about the previous owner",
        (
            "NEW.proof_node_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM proof_node AS proof"
            " JOIN ownership AS previous"
            " ON previous.instance_id = NEW.instance_id AND previous.epoch = NEW.epoch - 1"
            " WHERE proof.id = NEW.proof_node_id AND proof.node_id = previous.node_id"
            " AND proof.incarnation >= previous.incarnation)"
        ),
    ),
    (
        "evac: unproven: the release is not of the previous epoch",
        (
            "NEW.proof_release_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM proof_release"
            " WHERE id = NEW.proof_release_id AND instance_id = NEW.instance_id"
            " AND epoch = NEW.epoch - 1)"
        ),
    ),
)
_POSTGRESQL = (
    f"""
CREATE OR REPLACE FUNCTION evac_ownership_insert() {_HEAD}
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'evac: ledger: owners are assigned in READ COMMITTED transactions'
      USING ERRCODE = 'check_violation';
  END IF;
  PERFORM pg_advisory_xact_lock_shared({_LOCK}, hashtext(NEW.node_id));
{_refuse_postgresql(_OWNER_RULES)}
  IF NEW.epoch = 1 OR NEW.proof_adoption_id IS NOT NULL THEN
    RETURN NEW;
  END IF;
{_refuse_postgresql(_LATER_RULES)}
  RETURN NEW;
END $$
""",
    f"""
CREATE OR REPLACE FUNCTION evac_ownership_update() {_HEAD}
BEGIN
  IF NEW.run > OLD.run
    AND ROW(NEW.instance_id, NEW.epoch, NEW.node_id, NEW.term, NEW.incarnation, NEW.proof_node_id,
      NEW.proof_release_id, NEW.proof_adoption_id, NEW.created_at)
    IS NOT DISTINCT FROM ROW(OLD.instance_id, OLD.epoch, OLD.node_id, OLD.term, OLD.incarnation,
      OLD.proof_node_id, OLD.proof_release_id, OLD.proof_adoption_id, OLD.created_at) THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'evac: ledger: nothing changes in an epoch but a rising run'
    USING ERRCODE = 'check_violation';
END $$
""",
    f"""
CREATE FUNCTION evac_proof_adoption_insert() {_HEAD}
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'evac: ledger: epochs are adopted in READ COMMITTED transactions'
      USING ERRCODE = 'check_violation';
  END IF;
  PERFORM pg_advisory_xact_lock_shared({_LOCK}, hashtext(NEW.node_id));
{_refuse_postgresql(_ADOPTION_RULES)}
  RETURN NEW;
END $$
""",
    *(
        f"CREATE TRIGGER proof_adoption_{verb.lower()} BEFORE {verb} ON proof_adoption "
        f"FOR EACH ROW EXECUTE FUNCTION evac_{function}()"
        for verb, function in (
            ("INSERT", "proof_adoption_insert"),
            ("UPDATE", "keep"),
            ("DELETE", "keep"),
        )
    ),
    (
        "CREATE TRIGGER proof_adoption_truncate BEFORE TRUNCATE ON proof_adoption "
        "FOR EACH STATEMENT EXECUTE FUNCTION evac_keep()"
    ),
    (
        "GRANT SELECT ON node_inventory, sighting, recovery, proof_adoption "
        "TO evac_api, evac_scheduler, evac_monitor"
    ),
    "GRANT INSERT, UPDATE, DELETE ON node_inventory, sighting, recovery TO evac_scheduler",
    "GRANT INSERT ON proof_adoption TO evac_scheduler",
)


def upgrade() -> None:
    _flags()
    _tables()
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        op.execute(
            "ALTER TABLE ownership ADD COLUMN proof_adoption_id VARCHAR(32) "
            "CONSTRAINT fk_ownership_proof_adoption_id REFERENCES proof_adoption (id)"
        )
        for statement in _SQLITE:
            op.execute(statement)
        return
    op.add_column("ownership", sa.Column("proof_adoption_id", sa.String(32), nullable=True))
    op.create_foreign_key(
        "fk_ownership_proof_adoption_id",
        "ownership",
        "proof_adoption",
        ["proof_adoption_id"],
        ["id"],
    )
    name = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
    schema = connection.dialect.identifier_preparer.quote_schema(name)
    for statement in _POSTGRESQL:
        connection.exec_driver_sql(statement.replace("{schema}", schema))


def _flags() -> None:
    # Defaults of the database's own: a service of the version before may still insert.
    op.add_column(
        "cluster_flags",
        sa.Column("recovering_reason", sa.Text(), nullable=False, server_default=""),
    )
    op.add_column("cluster_flags", sa.Column("recovering_since", UtcTime(), nullable=True))
    op.add_column(
        "node_state",
        sa.Column("down_term", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
    )


def _tables() -> None:
    op.create_table(
        "node_inventory",
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_node_inventory"),
    )
    op.create_table(
        "sighting",
        sa.Column("instance_id", sa.String(length=32), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("running", sa.Boolean(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("explained", sa.Boolean(), nullable=False),
        sa.Column("judged_term", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("instance_id", "node_id", name="pk_sighting"),
    )
    op.create_index("ix_sighting_node_id", "sighting", ["node_id"])
    op.create_table(
        "recovery",
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("adopted", sa.Integer(), nullable=False),
        sa.Column("left_alone", sa.Integer(), nullable=False),
        sa.Column("finished_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("term", name="pk_recovery"),
    )
    op.create_table(
        "proof_adoption",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("instance_id", sa.String(length=32), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("node_id", sa.String(length=32), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("evidence", Json, nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_proof_adoption"),
        sa.UniqueConstraint("instance_id", "epoch", name="uq_proof_adoption_instance_id_epoch"),
    )
