"""Create the tables, or bring them to this version: `migrate(url)`.

Forward only: the ledger is the record of who may run what, and a step back would forget part of it;
restore a backup instead, which the cluster then treats as a database that went back in time.

A new step, after the tables in code have changed: `python -m evac_common.store.migrations "why"`.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from evac_common.errors import StoreUnavailable
from evac_common.store import intent, nodes, outbox, placement
from evac_common.store.failures import translated
from evac_common.store.urls import blocking_url

TABLES: Final = (*intent.TABLES, *placement.TABLES, *nodes.TABLES, *outbox.TABLES)


def migrate(url: str) -> None:
    """Bring a database to this version's tables, triggers, and roles, all or nothing; blocking.

    On PostgreSQL the caller's user becomes the owner of the tables, and needs CREATEROLE unless the
    services' roles exist already. Harmless when there is nothing to do, or when two do it at once.
    Raises StoreUnavailable.
    """
    engine = engine_for(url)
    try:
        with translated("migrate"), engine.connect() as connection:
            command.upgrade(config_for(connection), "head")
    finally:
        engine.dispose()


def engine_for(url: str) -> Engine:
    """A blocking engine whose transactions include the statements that create tables."""
    address = blocking_url(url)
    if address.get_backend_name() == "postgresql":
        return create_engine(address, poolclass=NullPool, connect_args={"connect_timeout": 5})
    path = Path(str(address.database))
    if not path.parent.is_dir():
        raise StoreUnavailable("the folder of the SQLite file does not exist", path=str(path))
    engine = create_engine(address, poolclass=NullPool)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def config_for(connection: Connection) -> Config:
    """Alembic's configuration without a file; env.py takes the connection from its attributes."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says
    connection.execute("PRAGMA journal_mode=WAL").close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
