"""What every route shares: strict JSON, the caller behind the token, answers, ETags."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from evac_api.core import documents, refusals
from evac_api.handlers.http.problems import BodyRefused, Problem
from evac_api.ports import Answer, Caller, Desk
from evac_common.model.identity import Name

REASON_MAX: Final = 1000
_BEARER: Final = HTTPBearer(
    auto_error=False, scheme_name="token", description="A token made by `evac-api init`."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long and how often the long requests may look at the database."""

    poll_s: float
    wait_max_s: float
    keepalive_s: float
    streams: asyncio.Semaphore
    closing: asyncio.Event  # set when the service stops: streams and long polls end


class StrictRequest(Request):
    """JSON with a key given twice is refused with its path, not silently halved."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            try:
                self._json = documents.parse_json(await self.body())
            except refusals.Invalid as error:
                raise BodyRefused(error) from error
        return self._json


class StrictRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


async def desk_of(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


async def limits_of(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


async def caller_of(
    request: Request,
    desk: Annotated[Desk, Depends(desk_of)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=128,
            pattern=r"^[\x21-\x7e]+$",
            description="Chosen by you: the same request under the same key is carried out once.",
        ),
    ] = None,
) -> Caller:
    if credentials is None:
        raise refusals.Unauthenticated
    actor = await desk.tokens.actor(credentials.credentials)
    if idempotency_key is None or request.method in {"GET", "HEAD"}:
        return Caller(actor=actor)
    content = hashlib.sha256()
    content.update(f"{request.method} {request.url.path}\n".encode())
    content.update(await request.body())
    return Caller(actor=actor, key=idempotency_key, digest=content.hexdigest())


async def if_match(
    if_match: Annotated[
        str | None,
        Header(description='Only if the resource still has this ETag: `"7"`.', max_length=64),
    ] = None,
) -> int | None:
    if if_match is None or if_match == "*":
        return None
    plain = if_match.removeprefix("W/").strip('"')
    if not plain.isascii() or not plain.isdigit() or len(plain) > 18:
        raise refusals.Invalid.one("If-Match", if_match, 'must be an ETag of ours, like "7"')
    return int(plain)


def _is_plain(text: str) -> str:
    if any(ord(letter) < 32 and letter not in "\n\t" for letter in text):
        raise ValueError("must not contain control characters")
    return text


Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=3, max_length=REASON_MAX),
    AfterValidator(_is_plain),
    Field(description="Recorded with your name and shown by `explain`."),
]
DeskOf = Annotated[Desk, Depends(desk_of)]
CallerOf = Annotated[Caller, Depends(caller_of)]
LimitsOf = Annotated[Limits, Depends(limits_of)]
IfMatch = Annotated[int | None, Depends(if_match)]
After = Annotated[str, Query(max_length=63, description="Continue after this item (`next`).")]
Limit = Annotated[int, Query(ge=1, le=10000, description="At most so many items.")]


class Because(BaseModel):
    """Why a person asks for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Reason


class Confirmed(Because):
    """A person vouches that the node is off; its name is repeated so that it is meant."""

    name: Name = Field(description="The node's name once more.")


class Wanted(BaseModel):
    """An optional reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Reason | None = None


def reply(answer: Answer) -> Response:
    headers = {}
    if answer.location is not None:
        headers["Location"] = answer.location
    if answer.generation is not None:
        headers["ETag"] = f'"{answer.generation}"'
    if answer.status == 204:
        return Response(status_code=204, headers=headers)
    return JSONResponse(answer.body, status_code=answer.status, headers=headers)


def shown(view: BaseModel, generation: int | None = None) -> Response:
    return reply(Answer(status=200, body=view.model_dump(mode="json"), generation=generation))


_WORDS: Final = {
    401: "No token, or an unknown one.",
    403: "The token was revoked.",
    404: "There is no such thing.",
    409: "The present state does not allow it; `hint` names what would do.",
    412: "It has changed since you read it (If-Match).",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "A value breaks a rule; `violations` names field, value and rule. Nothing was stored.",
    502: "The broker refused what was needed.",
    503: "Database or broker away; the same request may succeed later.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of refusals; those every route has are always among them."""
    return {
        status: {
            "model": Problem,
            "description": _WORDS[status],
            "content": {"application/problem+json": {"schema": _PROBLEM}},
        }
        for status in sorted({401, 403, 422, 503, *statuses})
    }


_PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}
