"""/v1/cluster: the flags of the whole, and wishes about them."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import Field

from evac_api.core import views
from evac_api.handlers.http.exchange import (
    Because,
    CallerOf,
    DeskOf,
    StrictRoute,
    problems,
    reply,
    shown,
)

router = APIRouter(prefix="/v1/cluster", tags=["cluster"], route_class=StrictRoute)


class Disarm(Because):
    """Switch automatic fencing off for a while."""

    for_s: float = Field(gt=0, le=7 * 24 * 3600, description="For how long, seconds.")


_VERB = problems(413, 415)


@router.get("", response_model=views.ClusterView, responses=problems())
async def show_cluster(desk: DeskOf, caller: CallerOf) -> Response:
    """The state of the whole: armed or not, storm, nodes and instances by state."""
    return shown(await desk.cluster.show())


@router.post("/disarm", status_code=202, response_model=views.OperationView, responses=_VERB)
async def disarm(body: Disarm, desk: DeskOf, caller: CallerOf) -> Response:
    """No automatic fencing for a while. A node that dies meanwhile stays as it is."""
    answer = await desk.cluster.wish(caller, "disarm", body.reason, {"for_s": body.for_s})
    return reply(answer)


@router.post("/arm", status_code=202, response_model=views.OperationView, responses=_VERB)
async def arm(body: Because, desk: DeskOf, caller: CallerOf) -> Response:
    """Automatic fencing on again."""
    return reply(await desk.cluster.wish(caller, "arm", body.reason, {}))


@router.get("/storm", response_model=views.StormView, responses=problems())
async def show_storm(desk: DeskOf, caller: CallerOf) -> Response:
    """Is there a storm (too many nodes silent at once), and which nodes are silent?"""
    return shown(await desk.cluster.storm())


@router.post("/storm/release", status_code=202, response_model=views.OperationView, responses=_VERB)
async def release_storm(body: Because, desk: DeskOf, caller: CallerOf) -> Response:
    """A person has looked: go on fencing. Silent nodes are cut off one after the other."""
    return reply(await desk.cluster.wish(caller, "storm_release", body.reason, {}))
