"""One step, one transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from evac_common.errors import Conflict
from evac_scheduler.ports import Database, Records


async def in_transaction(database: Database, step: Callable[[Records], Awaitable[None]]) -> None:
    """Run a step. A race that another replica won undoes it; the next sweep reads again."""
    try:
        async with database.transaction() as records:
            await step(records)
    except Conflict as conflict:
        structlog.get_logger().info("another replica was first", why=str(conflict))
