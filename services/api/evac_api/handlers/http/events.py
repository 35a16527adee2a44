"""/v1/events: what happened, as a list or as a stream (server-sent events)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from evac_api.core import views
from evac_api.core.refusals import Conflict, Invalid
from evac_api.handlers.http.exchange import (
    CallerOf,
    DeskOf,
    Limits,
    LimitsOf,
    StrictRoute,
    problems,
    shown,
)
from evac_api.ports import Desk, EventFilter
from evac_common.model.identity import Name

router = APIRouter(prefix="/v1", tags=["events"], route_class=StrictRoute)

STREAM: Final = "text/event-stream"
BATCH: Final = 500
NAME_PATTERN: Final = r"^[a-z_]+(\.[a-z_]+)*(\.\*)?$"
SEQUENCE_MAX: Final = 2**62


@router.get(
    "/events",
    response_model=views.Page[views.EventView],
    responses={
        200: {
            "description": "A list; or a stream, for `Accept: text/event-stream`.",
            "content": {STREAM: {"schema": {"type": "string"}}},
        },
        **problems(404, 409),
    },
)
async def events(
    request: Request,
    desk: DeskOf,
    caller: CallerOf,
    limits: LimitsOf,
    name: Annotated[
        list[Annotated[str, Query(pattern=NAME_PATTERN, max_length=64)]] | None,
        Query(max_length=32, description="`node.down`, or a family: `node.*`. May be repeated."),
    ] = None,
    node: Annotated[Name | None, Query(description="Only about this node.")] = None,
    instance: Annotated[Name | None, Query(description="Only about this instance.")] = None,
    subject: Annotated[
        str | None,
        Query(max_length=64, pattern=r"^[0-9a-z_-]+$", description="Only about this id."),
    ] = None,
    alarms: Annotated[bool, Query(description="Only what needs a person.")] = False,
    after: Annotated[
        int | None,
        Query(ge=0, le=SEQUENCE_MAX, description="Events after this sequence; unset: the latest."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=10000)] = 100,
    last_event_id: Annotated[
        int | None,
        Header(ge=0, le=SEQUENCE_MAX, description="A stream goes on after this sequence."),
    ] = None,
) -> Response:
    """Events, oldest first: the latest ones, or those after a sequence.

    With `Accept: text/event-stream` a stream: each event has its sequence as `id`; an event may
    come twice, none is left out. A stream without Last-Event-ID and `after` begins now.
    """
    subject = await _subject(desk, node, instance, subject)
    wanted = EventFilter(names=tuple(name or ()), subject=subject, alarms=alarms)
    if STREAM in request.headers.get("accept", ""):
        begin = last_event_id if last_event_id is not None else after
        return await _stream(desk, limits, wanted, begin)
    if after is None:
        found = await desk.events.latest(wanted, limit=limit)
    else:
        found = await desk.events.since(wanted, after=after, limit=limit)
    more = str(found[-1].sequence) if found and len(found) == limit else None
    return shown(views.Page[views.EventView](items=found, next=more))


async def _subject(
    desk: Desk, node: str | None, instance: str | None, subject: str | None
) -> str | None:
    """Names are for people; events carry ids."""
    given = [value for value in (node, instance, subject) if value is not None]
    if len(given) > 1:
        raise Invalid.one("subject", given, "give one of node, instance and subject")
    if node is not None:
        return (await desk.nodes.show(node)).id
    if instance is not None:
        return (await desk.instances.show(instance)).id
    return subject


async def _stream(desk: Desk, limits: Limits, wanted: EventFilter, begin: int | None) -> Response:
    if limits.streams.locked():
        raise Conflict("too many event streams are open", hint="close one, or ask for lists")
    after = begin if begin is not None else await desk.events.last_sequence()
    return StreamingResponse(
        _lines(desk, limits, wanted, after),
        media_type=STREAM,
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _lines(
    desk: Desk, limits: Limits, wanted: EventFilter, after: int
) -> AsyncIterator[bytes]:
    """Poll the table: it is the source, and every replica of the api sees all of it.

    `known` are the sequences of the look-back window, so that an event which was committed late,
    below one already sent, is still sent.
    """
    loop = asyncio.get_running_loop()
    async with limits.streams:
        known = frozenset[int]()
        if after:
            known = await _already(desk, wanted, after)
        said_s = loop.time()
        yield b": evac events\n\n"
        while not limits.closing.is_set():
            found = await desk.events.arrived(wanted, after=after, known=known, limit=BATCH)
            for event in found:
                after = max(after, event.sequence)
                said_s = loop.time()
                data = json.dumps(event.model_dump(mode="json"))
                yield format_sse_event(data_str=data, event=event.name, id=str(event.sequence))
            known = _recent(known | {event.sequence for event in found}, after)
            if loop.time() - said_s >= limits.keepalive_s:
                said_s = loop.time()
                yield b": still here\n\n"
            if len(found) < BATCH:
                await asyncio.sleep(limits.poll_s)


async def _already(desk: Desk, wanted: EventFilter, after: int) -> frozenset[int]:
    """What stood at or below `after` when the stream began: it was not asked for."""
    recent = await desk.events.arrived(wanted, after=SEQUENCE_MAX, known=frozenset(), limit=100_000)
    return frozenset(event.sequence for event in recent if event.sequence <= after)


def _recent(known: frozenset[int], after: int) -> frozenset[int]:
    """Sequences rise: far below the newest, nothing can still be inside the look-back window."""
    if len(known) <= 20_000:
        return known
    return frozenset(sorted(known)[-10_000:])
