"""The migrations make exactly the tables that the code declares."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from evac_common.errors import StoreUnavailable
from evac_common.store import migrations
from evac_common.store.columns import metadata
from evac_common.store.engine import SCHEMA
from evac_common.store.migrations import TABLES, migrate
from evac_common.store.roles import ROLES
from evac_lab.real.servers import PostgreSQL
from tests.contract.store.database import Database


async def test_code_and_migrations_agree(database: Database) -> None:
    with database.owner() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        difference = compare_metadata(context, metadata)
    assert difference == [], "run `python -m evac_common.store.migrations WHY`"


async def test_the_comparison_can_fail(database: Database) -> None:
    database.sql("DROP INDEX ix_ownership_node_id_incarnation")
    with database.owner() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) != []


async def test_the_rows_that_always_exist(database: Database) -> None:
    assert database.value("SELECT id FROM planning_lock") == 1
    assert database.value("SELECT term FROM cluster_flags WHERE id = 1") == 1
    with database.owner() as connection:
        flags = connection.exec_driver_sql("SELECT storm, recovering FROM cluster_flags").one()
    assert [bool(flag) for flag in flags] == [False, False]


async def test_migrating_again_changes_nothing(database: Database) -> None:
    database.sql("UPDATE cluster_flags SET term = 5")
    migrate(database.url)
    assert database.value("SELECT term FROM cluster_flags") == 5


def test_the_code_names_the_newest_migration() -> None:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_current_head() == SCHEMA


def test_every_table_has_one_owner() -> None:
    assert sorted(table.name for table in TABLES) == sorted(metadata.tables)


def test_a_failed_migration_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite would keep the tables made so far, and the next try would stumble over them."""
    path = tmp_path / "evac.db"
    broken = tmp_path / "migrations"
    broken.mkdir()
    source = Path(migrations.__file__).parent
    for file in (*source.glob("*.py"), *source.glob("versions/*.py")):
        target = broken / file.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        text = file.read_text()
        target.write_text(text.replace("CREATE TRIGGER proof_node_insert", "CREATE NONSENSE"))
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "__file__", str(broken / "__init__.py"))
        with pytest.raises(Exception, match="NONSENSE"):
            migrate(f"sqlite:///{path}")
    migrate(f"sqlite:///{path}")


def test_a_database_that_is_away_is_weather(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        migrate(f"sqlite:///{tmp_path / 'missing' / 'evac.db'}")
    with pytest.raises(StoreUnavailable):
        migrate("postgresql://nobody@127.0.0.1:1/nothing")


@pytest.mark.real
def test_two_migrate_at_once(server: PostgreSQL) -> None:
    url = asyncio.run(server.create_database("migrated_twice"))
    program = "import sys; from evac_common.store.migrations import migrate; migrate(sys.argv[1])"
    running = [subprocess.Popen([sys.executable, "-c", program, url]) for _ in range(3)]
    assert [process.wait(timeout=30) for process in running] == [0, 0, 0]
    asyncio.run(server.drop_database("migrated_twice"))


@pytest.mark.real
async def test_tables_in_a_schema_with_an_odd_name(postgresql: Database) -> None:
    """The triggers name their schema, whatever it is."""
    postgresql.sql('CREATE SCHEMA "Evac x"')
    url = f"{postgresql.url}?options=-csearch_path%3D%22Evac%5C%20x%22"
    migrate(url)
    with pytest.raises(Exception, match="evac: ledger: the first epoch is 1"):
        postgresql.sql(
            'SET search_path = "Evac x"',
            "INSERT INTO ownership VALUES ('a', 0, 'b', 1, 1, 1, NULL, NULL, now())",
        )


@pytest.mark.real
async def test_no_service_owns_a_table(postgresql: Database) -> None:
    roles = ", ".join(f"'{role}'" for role in ROLES.values())
    owned = f"SELECT count(*) FROM pg_tables WHERE tableowner IN ({roles})"
    assert postgresql.value(owned) == 0
    assert postgresql.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") > 20
