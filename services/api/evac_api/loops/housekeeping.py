"""What the api does without being asked. Each step reads everything anew."""

from __future__ import annotations

from typing import Final

from prometheus_client import Gauge

from evac_api.ports import Desk

OPEN: Final = Gauge("evac_api_operations_open", "Operations that are not settled.")
DELETING: Final = Gauge("evac_api_instances_deleting", "Deleted instances whose record is left.")


async def settle(desk: Desk) -> None:
    """Remove what may go, then look at open operations: a deletion settles in the same step."""
    if not await desk.operations.any_open():  # asked every second, and hardly ever so
        DELETING.set(0)
        OPEN.set(0)
        return
    DELETING.set(await desk.operations.purge())
    OPEN.set(await desk.operations.settle())


async def expire(desk: Desk) -> None:
    await desk.events.expire()
