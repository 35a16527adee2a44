"""One step, one transaction; and no step on a database that may have forgotten something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from evac_common.errors import Conflict
from evac_scheduler.ports import Database, Records


def trusting(step: Callable[[Records], Awaitable[None]]) -> Callable[[Records], Awaitable[None]]:
    """The step, unless the database may have gone back in time: asked in its own transaction."""

    async def guarded(records: Records) -> None:
        if not await records.distrust():
            await step(records)

    return guarded


async def in_transaction(database: Database, step: Callable[[Records], Awaitable[None]]) -> None:
    """Run a step. A race that another replica won undoes it; the next sweep reads again."""
    try:
        async with database.transaction() as records:
            await step(records)
    except Conflict as conflict:
        structlog.get_logger().info("another replica was first", why=str(conflict))
