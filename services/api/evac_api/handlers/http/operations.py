"""/v1/operations: what was asked for, and whether it holds."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from evac_api.core import views
from evac_api.handlers.http.exchange import (
    After,
    CallerOf,
    DeskOf,
    Limit,
    LimitsOf,
    StrictRoute,
    problems,
    shown,
)
from evac_common.model.identity import Id
from evac_common.model.states import OperationState

router = APIRouter(prefix="/v1/operations", tags=["operations"], route_class=StrictRoute)


@router.get("", response_model=views.Page[views.OperationView], responses=problems(404))
async def list_operations(
    desk: DeskOf,
    caller: CallerOf,
    after: After = "",
    limit: Limit = 100,
    state: Annotated[OperationState | None, Query(description="Only in this state.")] = None,
    request_id: Annotated[
        Id | None, Query(description="Only those begun by this request from the bus.")
    ] = None,
) -> Response:
    """Operations, newest first."""
    page = await desk.operations.page(
        after=after, limit=limit, state=state.value if state else None, request_id=request_id
    )
    return shown(page)


@router.get("/{operation_id}", response_model=views.OperationView, responses=problems(404))
async def show_operation(
    operation_id: Id,
    desk: DeskOf,
    caller: CallerOf,
    limits: LimitsOf,
    wait: Annotated[
        float,
        Query(ge=0, le=600, description="Answer when it is settled, or after so many seconds."),
    ] = 0.0,
) -> Response:
    """One operation. With `wait`, a long poll: it answers early when the operation is settled."""
    view = await desk.operations.show(operation_id)
    if wait <= 0 or limits.streams.locked():
        return shown(view)
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + min(wait, limits.wait_max_s)
    async with limits.streams:
        while view.state is OperationState.PENDING and not limits.closing.is_set():
            left_s = deadline_s - loop.time()
            if left_s <= 0:
                break
            await asyncio.sleep(min(limits.poll_s, left_s))
            view = await desk.operations.show(operation_id)
    return shown(view)
