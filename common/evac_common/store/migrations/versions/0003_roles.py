"""PostgreSQL: a role per service, which writes what it owns and reads the rest; none owns a table.

The roles can log in once somebody gave them a password (`evac_common.store.roles.set_password`).
Of outbox, event and audit a role inserts, marks and deletes only rows of its own service.
"""

from __future__ import annotations

from collections.abc import Iterator

from alembic import op

revision = "0003"
down_revision = "0002"

_OWNED = {
    "api": (
        "instance_spec",
        "pool",
        "node_spec",
        "node_wish",
        "cluster_wish",
        "operation",
        "idempotency_key",
        "api_token",
    ),
    "scheduler": (
        "reservation",
        "evacuation",
        "evacuation_item",
        "instance_status",
        "command",
        "planning_lock",
        "scheduler_wish_outcome",
    ),
    "monitor": (
        "node_state",
        "node_facts",
        "fence_attempt",
        "cluster_flags",
        "monitor_wish_outcome",
    ),
}
_LEDGER = {
    "scheduler": ("INSERT, UPDATE (run) ON ownership", "INSERT ON proof_release"),
    "monitor": ("INSERT ON proof_node",),
    "api": (),
}
_INSERT_ONLY = ("ownership", "proof_release", "proof_node")
_SHARED = ("outbox", "event", "audit")
_SECRET = ("api_token",)  # only its owner reads it

_CREATE_ROLE = """
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
    CREATE ROLE {role} LOGIN;
  END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
  NULL; -- another database of this server was migrated at the same moment
END $$
"""


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        return
    name = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
    schema = connection.dialect.identifier_preparer.quote_schema(name)
    for statement in _shared():
        connection.exec_driver_sql(statement)
    for service in _OWNED:
        for statement in _for_role(service, schema):
            connection.exec_driver_sql(statement)


def _shared() -> Iterator[str]:
    for table in _SHARED:
        yield f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"
    for table in ("event", "audit"):
        yield f"CREATE POLICY everyone_reads ON {table} FOR SELECT USING (true)"


def _for_role(service: str, schema: str) -> Iterator[str]:
    role = f"evac_{service}"
    readable = [table for tables in _OWNED.values() for table in tables if table not in _SECRET]
    readable += [*_INSERT_ONLY, *_SHARED, "alembic_version"]
    own = f"service = '{service}'"
    yield _CREATE_ROLE.replace("{role}", role)
    yield f"GRANT USAGE ON SCHEMA {schema} TO {role}"
    yield f"GRANT SELECT ON {', '.join(readable)} TO {role}"
    yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(_OWNED[service])} TO {role}"
    for grant in _LEDGER[service]:
        yield f"GRANT {grant} TO {role}"
    yield f"GRANT INSERT, UPDATE (sent_at), DELETE ON outbox TO {role}"
    yield f"GRANT INSERT ON event, audit TO {role}"
    for table in _SHARED:
        yield f"GRANT USAGE ON SEQUENCE {table}_sequence_seq TO {role}"
    yield f"CREATE POLICY {service}_own ON outbox TO {role} USING ({own}) WITH CHECK ({own})"
    for table in ("event", "audit"):
        yield f"CREATE POLICY {service}_inserts ON {table} FOR INSERT TO {role} WITH CHECK ({own})"
    if service == "api":  # it expires events of every service after 7 days
        yield f"GRANT DELETE ON event TO {role}"
        yield f"CREATE POLICY api_expires ON event FOR DELETE TO {role} USING (true)"
