"""PostgreSQL: each service's role writes what the service owns, and nothing else."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from evac_common.errors import StoreUnavailable
from evac_common.store import intent, nodes, placement
from evac_common.store.engine import Store
from evac_common.store.migrations import TABLES
from evac_common.store.outbox import audit, event, outbox
from evac_common.store.roles import ROLES, set_password
from tests.contract.store.database import PASSWORD, Database

pytestmark = pytest.mark.real

OWNED = {"api": intent.TABLES, "scheduler": placement.TABLES, "monitor": nodes.TABLES}
SHARED = {outbox.name, event.name, audit.name}
LEDGER = {"ownership", "proof_release", "proof_node", "proof_adoption"}
WRITES = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER")


def rights(database: Database, service: str, table: str) -> set[str]:
    with database.owner() as connection:
        return {
            right
            for right in ("SELECT", *WRITES)
            if connection.execute(
                text("SELECT has_table_privilege(:role, :table, :right)"),
                {"role": ROLES[service], "table": table, "right": right},
            ).scalar()
        }


@pytest.mark.parametrize("service", ROLES)
async def test_rights_are_the_table_of_owners(postgresql: Database, service: str) -> None:
    own = {table.name for table in OWNED[service]}
    for table in TABLES:
        if table.name in SHARED:
            continue
        expected = {"SELECT"}
        if table.name in own:
            expected = {"SELECT", "INSERT"} | (
                set() if table.name in LEDGER else {"UPDATE", "DELETE"}
            )
        elif table.name == "api_token":
            expected = set()
        assert rights(postgresql, service, table.name) == expected, table.name


@pytest.mark.parametrize("service", ROLES)
async def test_shared_tables_take_own_rows_only(postgresql: Database, service: str) -> None:
    assert rights(postgresql, service, "outbox") == {"SELECT", "INSERT", "DELETE"}
    assert rights(postgresql, service, "audit") == {"SELECT", "INSERT"}
    assert rights(postgresql, service, "event") == {"SELECT", "INSERT"} | (
        {"DELETE"} if service == "api" else set()
    )
    other = "monitor" if service != "monitor" else "api"
    store = postgresql.store(service)
    async with store.transaction() as tx:
        await tx.audit(actor="x", action="x", subject="x", reason="x")
    with pytest.raises(Exception, match="row-level security"):
        async with store.transaction() as tx:
            await tx.execute(
                text(
                    "INSERT INTO audit "
                    "(service, actor, action, subject, reason, detail, created_at)"
                    f" VALUES ('{other}', 'x', 'x', 'x', 'x', '{{}}', now())"
                )
            )
    postgresql.sql(
        "INSERT INTO outbox (service, message_id, exchange, routing_key, headers, content_type, "
        f"body, created_at) VALUES ('{other}', 'x', 'x', 'x', '{{}}', 'x', 'x', now())"
    )
    async with store.transaction() as tx:
        assert await tx.change(text("UPDATE outbox SET sent_at = now()")) == 0
        assert await tx.change(text("DELETE FROM outbox")) == 0
    with pytest.raises(Exception, match="permission denied"):
        async with store.transaction() as tx:
            await tx.execute(text("UPDATE outbox SET body = 'y'"))


async def test_the_scheduler_cannot_touch_node_states(postgresql: Database) -> None:
    scheduler = postgresql.store("scheduler")
    for statement in (
        "UPDATE node_state SET state = 'up'",
        "UPDATE cluster_flags SET storm = false",
        "INSERT INTO proof_node VALUES ('a', 'b', 1, 'power', '{}', 'me', now())",
        "UPDATE ownership SET node_id = 'x'",
        "DELETE FROM ownership",
        "SELECT * FROM api_token",
        "ALTER TABLE ownership DISABLE TRIGGER ALL",
        "DROP TABLE ownership",
        "SET session_replication_role = replica",
    ):
        with pytest.raises(Exception, match=r"permission denied|must be owner") as caught:
            async with scheduler.transaction() as tx:
                await tx.execute(text(statement))
        assert not isinstance(caught.value, StoreUnavailable), statement


async def test_only_the_scheduler_raises_a_run(postgresql: Database) -> None:
    raising = "SELECT has_column_privilege('{}', 'ownership', 'run', 'UPDATE')"
    assert {service: postgresql.value(raising.format(role)) for service, role in ROLES.items()} == {
        "api": False,
        "scheduler": True,
        "monitor": False,
    }


async def test_a_wrong_password_is_weather_until_it_is_put_right(postgresql: Database) -> None:
    address = make_url(postgresql.url).set(username="evac_api", password="wrong")
    store = Store.open(
        address.render_as_string(hide_password=False), service="api", clock=postgresql.clock
    )
    with pytest.raises(StoreUnavailable, match="password authentication failed") as caught:
        await store.ping()
    assert "wrong" not in str(caught.value)
    try:
        set_password(postgresql.url, "api", "wrong")
        await store.ping()
    finally:
        set_password(postgresql.url, "api", PASSWORD)
        await store.close()


async def test_the_server_never_sees_the_password(postgresql: Database) -> None:
    kept = postgresql.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'evac_api'")
    assert kept.startswith("SCRAM-SHA-256$")
    assert PASSWORD not in kept


async def test_a_role_exists_once_for_all_databases(postgresql: Database) -> None:
    with psycopg.connect(postgresql.url) as connection:
        found = connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'evac%'")
        assert {row[0] for row in found} == set(ROLES.values())
