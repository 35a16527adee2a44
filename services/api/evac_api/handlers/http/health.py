"""/livez, /readyz, /metrics and the messages' schemas: without a token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from evac_api.core.refusals import NotFound
from evac_common.errors import DecodeError
from evac_common.messages.registry import declared, lookup

NotReady = Callable[[], Awaitable[list[str]]]

router = APIRouter(tags=["health"])


@router.get("/livez", response_class=PlainTextResponse)
async def livez() -> Response:
    """The process answers."""
    return PlainTextResponse("ok\n")


@router.get(
    "/readyz",
    response_class=PlainTextResponse,
    responses={503: {"description": "The reasons, one a line."}},
)
async def readyz(request: Request) -> Response:
    """Can requests be carried out now?"""
    not_ready: NotReady = request.app.state.not_ready
    reasons = await not_ready()
    if reasons:
        return PlainTextResponse("\n".join([*reasons, ""]), status_code=503)
    return PlainTextResponse("ok\n")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/schemas", response_class=JSONResponse)
async def schemas() -> Response:
    """Every message type, with the address of its schema."""
    return JSONResponse({cls.type(): f"/schemas/{cls.type()}.json" for cls in declared()})


@router.get(
    "/schemas/{type}.json",
    response_class=JSONResponse,
    responses={404: {"description": "No such message type, or no such version."}},
)
async def schema(type: str) -> Response:  # noqa: A002 - the word of CloudEvents, seen in the path
    """JSON Schema of one message type: `io.evac.event.node.down.v1`."""
    try:
        cls = lookup(type)
    except DecodeError as error:
        raise NotFound("message type", type[:128]) from error
    document = cls.model_json_schema(mode="serialization")
    return JSONResponse({"$id": f"urn:evac:schema:{cls.type()}", **document})
