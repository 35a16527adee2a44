"""/v1/apply and /v1/delete: many resources, one transaction."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from evac_api.core import views
from evac_api.handlers.http.exchange import CallerOf, DeskOf, StrictRoute, problems, reply
from evac_common.model.identity import Name
from evac_common.model.manifest import ApplyDocument

router = APIRouter(prefix="/v1", tags=["declarations"], route_class=StrictRoute)


def _names(value: Any) -> Any:
    """The document that was applied may be given as it is: only its names count."""
    return list(value) if isinstance(value, dict) else value


Names = Annotated[list[Name], BeforeValidator(_names), Field(max_length=100_000)]


class DeleteDocument(BaseModel):
    """Names to delete; each section is a list of names, or the map of the document applied."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nodes: Names = Field(default_factory=list)
    pools: Names = Field(default_factory=list)
    instances: Names = Field(default_factory=list)


@router.post("/apply", response_model=views.Applied, responses=problems(409, 413, 415))
async def apply(body: ApplyDocument, desk: DeskOf, caller: CallerOf) -> Response:
    """Create what is new, change what differs, all or nothing. Nodes must be enrolled before.

    What the document does not name stays as it is.
    """
    return reply(await desk.declarations.apply(caller, body))


@router.post(
    "/delete", status_code=202, response_model=views.Deleted, responses=problems(409, 413, 415)
)
async def delete(body: DeleteDocument, desk: DeskOf, caller: CallerOf) -> Response:
    """Remove the instances and pools that a document names; nodes in it are kept."""
    names = {"nodes": body.nodes, "pools": body.pools, "instances": body.instances}
    return reply(await desk.declarations.delete(caller, names))
