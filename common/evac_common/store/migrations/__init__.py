"""Create the tables, or bring them to this version: `migrate(url)`."""

from __future__ import annotations

from sqlalchemy import create_engine, insert, select

from evac_common.store import intent, nodes, outbox, placement  # noqa: F401 - declared by import
from evac_common.store.columns import metadata
from evac_common.store.urls import blocking_url


def migrate(url: str) -> None:
    engine = create_engine(blocking_url(url))
    with engine.begin() as connection:
        metadata.create_all(connection)
        if connection.execute(select(placement.planning_lock)).first() is None:
            connection.execute(insert(placement.planning_lock).values(id=1))
            connection.execute(
                insert(nodes.cluster_flags).values(
                    id=1,
                    term=1,
                    database_identity="",
                    storm=False,
                    storm_reason="",
                    disarmed_reason="",
                    recovering=False,
                )
            )
    engine.dispose()
