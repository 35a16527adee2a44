"""The ledger's own rules, as triggers: whoever asks, an owner without a proof is refused.

Messages begin with what they mean: `evac: unproven` (no proof for this owner), `evac: ledger` (the
record would be rewritten), `evac: conflict` (the row exists: somebody else was first).
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

_ASSIGN_SQLITE = """
CREATE TRIGGER ownership_insert BEFORE INSERT ON ownership BEGIN
  SELECT RAISE(ABORT, 'evac: ledger: epoch, run, incarnation and term are integers')
    WHERE typeof(NEW.epoch) <> 'integer' OR typeof(NEW.run) <> 'integer'
      OR typeof(NEW.incarnation) <> 'integer' OR typeof(NEW.term) <> 'integer';
  SELECT RAISE(ABORT, 'evac: ledger: the first epoch is 1') WHERE NEW.epoch < 1;
  SELECT RAISE(ABORT, 'evac: conflict: the instance has this epoch or a later one')
    WHERE EXISTS (SELECT 1 FROM ownership
      WHERE instance_id = NEW.instance_id AND epoch >= NEW.epoch);
  SELECT RAISE(ABORT, 'evac: ledger: the new owner''s incarnation is proven dead')
    WHERE EXISTS (SELECT 1 FROM proof_node
      WHERE node_id = NEW.node_id AND incarnation >= NEW.incarnation);
  SELECT RAISE(ABORT, 'evac: ledger: the first epoch follows nobody and takes no proof')
    WHERE NEW.epoch = 1 AND (NEW.proof_node_id IS NOT NULL OR NEW.proof_release_id IS NOT NULL);
  SELECT RAISE(ABORT, 'evac: unproven: the epoch before does not exist')
    WHERE NEW.epoch > 1 AND NOT EXISTS (SELECT 1 FROM ownership
      WHERE instance_id = NEW.instance_id AND epoch = NEW.epoch - 1);
  SELECT RAISE(ABORT, 'evac: unproven: exactly one proof is needed')
    WHERE NEW.epoch > 1 AND (NEW.proof_node_id IS NULL) = (NEW.proof_release_id IS NULL);
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
"""

# A replacing insert deletes without asking the delete triggers, so the insert itself is refused.
_SQLITE = (
    _ASSIGN_SQLITE,
    """
CREATE TRIGGER ownership_update BEFORE UPDATE ON ownership
WHEN NOT (NEW.instance_id IS OLD.instance_id AND NEW.epoch IS OLD.epoch
  AND NEW.node_id IS OLD.node_id AND NEW.term IS OLD.term
  AND NEW.incarnation IS OLD.incarnation AND NEW.proof_node_id IS OLD.proof_node_id
  AND NEW.proof_release_id IS OLD.proof_release_id AND NEW.created_at IS OLD.created_at
  AND typeof(NEW.run) = 'integer' AND NEW.run > OLD.run)
BEGIN SELECT RAISE(ABORT, 'evac: ledger: nothing changes in an epoch but a rising run'); END
""",
    """
CREATE TRIGGER proof_node_insert BEFORE INSERT ON proof_node BEGIN
  SELECT RAISE(ABORT, 'evac: ledger: the incarnation is an integer')
    WHERE typeof(NEW.incarnation) <> 'integer';
  SELECT RAISE(ABORT, 'evac: conflict: this proof exists')
    WHERE EXISTS (SELECT 1 FROM proof_node WHERE id = NEW.id
      OR (node_id = NEW.node_id AND incarnation = NEW.incarnation));
END
""",
    """
CREATE TRIGGER proof_release_insert BEFORE INSERT ON proof_release BEGIN
  SELECT RAISE(ABORT, 'evac: conflict: this release exists')
    WHERE EXISTS (SELECT 1 FROM proof_release WHERE id = NEW.id
      OR (instance_id = NEW.instance_id AND epoch = NEW.epoch));
  SELECT RAISE(ABORT, 'evac: ledger: a release is its owner''s word, and this node never owned it')
    WHERE NOT EXISTS (SELECT 1 FROM ownership WHERE instance_id = NEW.instance_id
      AND epoch = NEW.epoch AND node_id = NEW.node_id);
END
""",
    *(
        f"""
CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, 'evac: ledger: rows of {table} stay as they are'); END
"""
        for table, verb in (
            ("ownership", "DELETE"),
            ("proof_node", "UPDATE"),
            ("proof_node", "DELETE"),
            ("proof_release", "UPDATE"),
            ("proof_release", "DELETE"),
        )
    ),
)

# A proof about a node and an assignment to it must not pass each other unseen: both lock the node,
# and the assignment looks for the proof afterwards, with a snapshot that is younger than its lock.
_ASSIGN_POSTGRESQL = """
CREATE FUNCTION evac_ownership_insert() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp AS $$
DECLARE
  previous ownership%ROWTYPE;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'evac: ledger: owners are assigned in READ COMMITTED transactions'
      USING ERRCODE = 'check_violation';
  END IF;
  PERFORM pg_advisory_xact_lock_shared({lock}, hashtext(NEW.node_id));
  IF NEW.epoch < 1 THEN
    RAISE EXCEPTION 'evac: ledger: the first epoch is 1' USING ERRCODE = 'check_violation';
  END IF;
  IF EXISTS (SELECT FROM ownership
      WHERE instance_id = NEW.instance_id AND epoch >= NEW.epoch) THEN
    RAISE EXCEPTION 'evac: conflict: the instance has this epoch or a later one'
      USING ERRCODE = 'unique_violation';
  END IF;
  IF EXISTS (SELECT FROM proof_node
      WHERE node_id = NEW.node_id AND incarnation >= NEW.incarnation) THEN
    RAISE EXCEPTION 'evac: ledger: the new owner''s incarnation is proven dead'
      USING ERRCODE = 'check_violation';
  END IF;
  IF NEW.epoch = 1 THEN
    IF NEW.proof_node_id IS NOT NULL OR NEW.proof_release_id IS NOT NULL THEN
      RAISE EXCEPTION 'evac: ledger: the first epoch follows nobody and takes no proof'
        USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
  END IF;
  SELECT * INTO previous FROM ownership
    WHERE instance_id = NEW.instance_id AND epoch = NEW.epoch - 1;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'evac: unproven: the epoch before does not exist'
      USING ERRCODE = 'check_violation';
  END IF;
  IF (NEW.proof_node_id IS NULL) = (NEW.proof_release_id IS NULL) THEN
    RAISE EXCEPTION 'evac: unproven: exactly one proof is needed'
      USING ERRCODE = 'check_violation';
  END IF;
  IF NEW.proof_node_id IS NOT NULL AND NOT EXISTS (SELECT FROM proof_node
      WHERE id = NEW.proof_node_id AND node_id = previous.node_id
        AND incarnation >= previous.incarnation) THEN
    RAISE EXCEPTION 'evac: unproven: the proof is not about the previous owner'
      USING ERRCODE = 'check_violation';
  END IF;
  IF NEW.proof_release_id IS NOT NULL AND NOT EXISTS (SELECT FROM proof_release
      WHERE id = NEW.proof_release_id AND instance_id = NEW.instance_id
        AND epoch = NEW.epoch - 1) THEN
    RAISE EXCEPTION 'evac: unproven: the release is not of the previous epoch'
      USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END $$
"""

_POSTGRESQL = (
    _ASSIGN_POSTGRESQL,
    """
CREATE FUNCTION evac_ownership_update() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp AS $$
BEGIN
  IF NEW.run > OLD.run
    AND ROW(NEW.instance_id, NEW.epoch, NEW.node_id, NEW.term, NEW.incarnation,
      NEW.proof_node_id, NEW.proof_release_id, NEW.created_at)
    IS NOT DISTINCT FROM ROW(OLD.instance_id, OLD.epoch, OLD.node_id, OLD.term, OLD.incarnation,
      OLD.proof_node_id, OLD.proof_release_id, OLD.created_at) THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'evac: ledger: nothing changes in an epoch but a rising run'
    USING ERRCODE = 'check_violation';
END $$
""",
    """
CREATE FUNCTION evac_proof_node_insert() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock({lock}, hashtext(NEW.node_id));
  RETURN NEW;
END $$
""",
    """
CREATE FUNCTION evac_proof_release_insert() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM ownership WHERE instance_id = NEW.instance_id
      AND epoch = NEW.epoch AND node_id = NEW.node_id) THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'evac: ledger: a release is its owner''s word, and this node never owned it'
    USING ERRCODE = 'check_violation';
END $$
""",
    """
CREATE FUNCTION evac_keep() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, {schema}, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'evac: ledger: rows of % stay as they are', TG_TABLE_NAME
    USING ERRCODE = 'check_violation';
END $$
""",
    *(
        f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION evac_{function}()"
        for table, verb, function in (
            ("ownership", "INSERT", "ownership_insert"),
            ("ownership", "UPDATE", "ownership_update"),
            ("ownership", "DELETE", "keep"),
            ("proof_node", "INSERT", "proof_node_insert"),
            ("proof_node", "UPDATE", "keep"),
            ("proof_node", "DELETE", "keep"),
            ("proof_release", "INSERT", "proof_release_insert"),
            ("proof_release", "UPDATE", "keep"),
            ("proof_release", "DELETE", "keep"),
        )
    ),
    *(
        f"CREATE TRIGGER {table}_truncate BEFORE TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION evac_keep()"
        for table in ("ownership", "proof_node", "proof_release")
    ),
)

_LOCK = 0x65766163  # first key of the advisory locks; the second is the node's hash


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        for statement in _SQLITE:
            op.execute(statement)
        return
    name = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
    schema = connection.dialect.identifier_preparer.quote_schema(name)
    for statement in _POSTGRESQL:
        op.execute(statement.replace("{schema}", schema).replace("{lock}", str(_LOCK)))
