"""/v1/pools"""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import Field

from evac_api.core import views
from evac_api.handlers.http.exchange import (
    After,
    CallerOf,
    DeskOf,
    IfMatch,
    Limit,
    StrictRoute,
    problems,
    reply,
    shown,
)
from evac_common.model.identity import Name
from evac_common.model.manifest import ApplyDocument, PoolManifest

router = APIRouter(prefix="/v1/pools", tags=["pools"], route_class=StrictRoute)


class NewPool(PoolManifest):
    """A pool to declare: its name and its manifest in one."""

    name: Name = Field(description="Unique; a DNS label.")


def document(name: str, pool: PoolManifest) -> ApplyDocument:
    plain = PoolManifest.model_construct(
        **{key: getattr(pool, key) for key in PoolManifest.model_fields}
    )
    return ApplyDocument.model_construct(nodes={}, pools={name: plain}, instances={})


@router.post("", status_code=201, response_model=views.PoolView, responses=problems(409, 413, 415))
async def create_pool(body: NewPool, desk: DeskOf, caller: CallerOf) -> Response:
    """Declare a pool."""
    return reply(await desk.declarations.create(caller, document(body.name, body)))


@router.get("", response_model=views.Page[views.PoolView], responses=problems())
async def list_pools(
    desk: DeskOf, caller: CallerOf, after: After = "", limit: Limit = 1000
) -> Response:
    """Pools by name."""
    return shown(await desk.pools.page(after=after, limit=limit))


@router.get("/{name}", response_model=views.PoolView, responses=problems(404))
async def show_pool(name: Name, desk: DeskOf, caller: CallerOf) -> Response:
    """One pool."""
    view = await desk.pools.show(name)
    return shown(view, view.generation)


@router.put(
    "/{name}",
    response_model=views.PoolView,
    responses={201: {"model": views.PoolView}, **problems(409, 412, 413, 415)},
)
async def replace_pool(
    name: Name, body: PoolManifest, desk: DeskOf, caller: CallerOf, generation: IfMatch
) -> Response:
    """Declare a pool, whether it exists or not."""
    return reply(await desk.declarations.replace(caller, document(name, body), generation))


@router.delete("/{name}", status_code=204, responses=problems(404, 409, 412))
async def delete_pool(name: Name, desk: DeskOf, caller: CallerOf, generation: IfMatch) -> Response:
    """Remove a pool that no instance has a disk in. What it stores is not touched."""
    return reply(await desk.pools.delete(caller, name, generation))
