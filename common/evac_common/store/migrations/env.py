"""Alembic runs this file for every command; see `migrate` and `__main__` for who calls it."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection

from evac_common.store.columns import Json, UtcTime, metadata

_LOCK = 0x65766163  # "evac": two migrations of one PostgreSQL database wait for each other


def _render(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    if kind == "type" and isinstance(item, UtcTime):
        autogen.imports.add("from evac_common.store.columns import UtcTime")
        return "UtcTime()"
    if kind == "type" and item is Json:
        autogen.imports.add("from evac_common.store.columns import Json")
        return "Json"
    return False


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,  # SQLite changes a table by copying it
        transactional_ddl=True,  # on SQLite too: `engine_for` begins transactions itself
        render_item=_render,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        context.run_migrations()


run(context.config.attributes["connection"])
