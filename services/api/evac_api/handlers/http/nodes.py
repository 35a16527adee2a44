"""/v1/nodes"""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import Field

from evac_api.core import views
from evac_api.core.refusals import Invalid
from evac_api.core.verbs import NodeVerb
from evac_api.handlers.http.exchange import (
    After,
    Because,
    CallerOf,
    Confirmed,
    DeskOf,
    IfMatch,
    Limit,
    StrictRoute,
    problems,
    reply,
    shown,
)
from evac_common.model.identity import Name
from evac_common.model.manifest import ApplyDocument, NodeManifest

router = APIRouter(prefix="/v1/nodes", tags=["nodes"], route_class=StrictRoute)


class NewNode(NodeManifest):
    """A node to enrol: its name and its manifest in one."""

    name: Name = Field(description="Unique; a DNS label.")


@router.post(
    "", status_code=201, response_model=views.Enrolled, responses=problems(409, 413, 415, 502)
)
async def enrol(body: NewNode, desk: DeskOf, caller: CallerOf) -> Response:
    """Enrol a node: identity, broker user and command queue. The secret is shown this once."""
    node = NodeManifest.model_construct(
        _fields_set=body.model_fields_set - {"name"},
        **{key: getattr(body, key) for key in NodeManifest.model_fields},
    )
    return reply(await desk.nodes.enrol(caller, body.name, node))


@router.get("", response_model=views.Page[views.NodeView], responses=problems())
async def list_nodes(
    desk: DeskOf, caller: CallerOf, after: After = "", limit: Limit = 1000
) -> Response:
    """Nodes by name, as enrolled and as the monitor sees them."""
    return shown(await desk.nodes.page(after=after, limit=limit))


@router.get("/{name}", response_model=views.NodeView, responses=problems(404))
async def show_node(name: Name, desk: DeskOf, caller: CallerOf) -> Response:
    """One node."""
    view = await desk.nodes.show(name)
    return shown(view, view.generation)


@router.put("/{name}", response_model=views.NodeView, responses=problems(409, 412, 413, 415))
async def replace_node(
    name: Name, body: NodeManifest, desk: DeskOf, caller: CallerOf, generation: IfMatch
) -> Response:
    """Change an enrolled node's manifest. `power` and `dmi_uuid` stay unless they are given."""
    document = ApplyDocument.model_construct(nodes={name: body}, pools={}, instances={})
    return reply(await desk.declarations.replace(caller, document, generation))


@router.delete("/{name}", response_model=views.Forgotten, responses=problems(404, 409, 412, 502))
async def forget(name: Name, desk: DeskOf, caller: CallerOf, generation: IfMatch) -> Response:
    """Forget a node that is new or fenced and owns nothing; its broker user and queue go too."""
    return reply(await desk.nodes.forget(caller, name, generation))


_VERB = problems(404, 409, 413, 415)


@router.post("/{name}/fence", status_code=202, response_model=views.OperationView, responses=_VERB)
async def fence(name: Name, body: Because, desk: DeskOf, caller: CallerOf) -> Response:
    """Cut the node off now: skips detection, rate, blast radius and hold-off, never the proof."""
    return reply(await desk.nodes.wish(caller, name, NodeVerb.FENCE, body.reason))


@router.post(
    "/{name}/evacuate", status_code=202, response_model=views.OperationView, responses=_VERB
)
async def evacuate(name: Name, body: Because, desk: DeskOf, caller: CallerOf) -> Response:
    """Follow the evacuation of a node that is fenced, or will be when it is proven dead."""
    return reply(await desk.nodes.wish(caller, name, NodeVerb.EVACUATE, body.reason))


@router.post(
    "/{name}/confirm-down", status_code=202, response_model=views.OperationView, responses=_VERB
)
async def confirm_down(name: Name, body: Confirmed, desk: DeskOf, caller: CallerOf) -> Response:
    """A person vouches that the node is off. If it is not, its instances run twice."""
    if body.name != name:
        raise Invalid.one("name", body.name, f"must repeat the node's name, {name}")
    return reply(await desk.nodes.wish(caller, name, NodeVerb.CONFIRM_DOWN, body.reason))
