"""/v1/instances"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from evac_api.core import views
from evac_api.handlers.http.exchange import (
    After,
    CallerOf,
    DeskOf,
    IfMatch,
    Limit,
    StrictRoute,
    Wanted,
    problems,
    reply,
    shown,
)
from evac_common.model.identity import Name
from evac_common.model.manifest import ApplyDocument, InstanceManifest

router = APIRouter(prefix="/v1/instances", tags=["instances"], route_class=StrictRoute)


class NewInstance(InstanceManifest):
    """An instance to create: its name and its manifest in one."""

    name: Name = Field(description="Unique; a DNS label.")


def document(name: str, instance: InstanceManifest) -> ApplyDocument:
    plain = InstanceManifest.model_construct(
        **{key: getattr(instance, key) for key in InstanceManifest.model_fields}
    )
    return ApplyDocument.model_construct(nodes={}, pools={}, instances={name: plain})


@router.post(
    "", status_code=201, response_model=views.InstanceView, responses=problems(409, 413, 415)
)
async def create_instance(body: NewInstance, desk: DeskOf, caller: CallerOf) -> Response:
    """Create an instance. With `run_strategy` Always it is placed and started."""
    return reply(await desk.declarations.create(caller, document(body.name, body)))


@router.get("", response_model=views.Page[views.InstanceView], responses=problems())
async def list_instances(
    desk: DeskOf,
    caller: CallerOf,
    after: After = "",
    limit: Limit = 1000,
    node: Annotated[Name | None, Query(description="Only those last owned by this node.")] = None,
) -> Response:
    """Instances by name: intent, placement and what was last seen."""
    return shown(await desk.instances.page(after=after, limit=limit, node=node))


@router.get("/{name}", response_model=views.InstanceView, responses=problems(404))
async def show_instance(name: Name, desk: DeskOf, caller: CallerOf) -> Response:
    """One instance."""
    view = await desk.instances.show(name)
    return shown(view, view.generation)


@router.put(
    "/{name}",
    response_model=views.InstanceView,
    responses={201: {"model": views.InstanceView}, **problems(409, 412, 413, 415)},
)
async def replace_instance(
    name: Name, body: InstanceManifest, desk: DeskOf, caller: CallerOf, generation: IfMatch
) -> Response:
    """Declare an instance, whether it exists or not. Size and disks count from its next start."""
    return reply(await desk.declarations.replace(caller, document(name, body), generation))


@router.get("/{name}/explain", response_model=views.ExplainView, responses=problems(404))
async def explain(name: Name, desk: DeskOf, caller: CallerOf) -> Response:
    """Why is it not running, why is it there? The chain of decisions with their reasons."""
    return shown(await desk.instances.explain(name))


_VERB = problems(404, 409, 412, 413, 415)


@router.delete("/{name}", status_code=202, response_model=views.OperationView, responses=_VERB)
async def delete_instance(
    name: Name, desk: DeskOf, caller: CallerOf, generation: IfMatch
) -> Response:
    """Stop the instance and remove its record. Its disks are not touched."""
    return reply(await desk.instances.delete(caller, name, generation))


@router.post("/{name}/start", status_code=202, response_model=views.OperationView, responses=_VERB)
async def start(
    name: Name, desk: DeskOf, caller: CallerOf, generation: IfMatch, body: Wanted | None = None
) -> Response:
    """It should run from now on (`run_strategy` Always)."""
    reason = (body.reason if body else None) or f"started by {caller.actor}"
    return reply(
        await desk.instances.set_running(
            caller, name, running=True, reason=reason, generation=generation
        )
    )


@router.post("/{name}/stop", status_code=202, response_model=views.OperationView, responses=_VERB)
async def stop(
    name: Name, desk: DeskOf, caller: CallerOf, generation: IfMatch, body: Wanted | None = None
) -> Response:
    """It should not run from now on (`run_strategy` Halted)."""
    reason = (body.reason if body else None) or f"stopped by {caller.actor}"
    return reply(
        await desk.instances.set_running(
            caller, name, running=False, reason=reason, generation=generation
        )
    )
