"""Refusals as problem documents (RFC 9457): which field, which value, which rule."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from evac_api.core import documents, refusals
from evac_common import errors

MEDIA: Final = "application/problem+json"
RETRY_AFTER_S: Final = "2"


class ViolationModel(BaseModel):
    field: str = Field(description="Path of the value: `instances.web-1.disks[0].pool`.")
    value: Any = Field(description="What was given.")
    rule: str = Field(description="What it must obey.")


class Problem(BaseModel):
    """RFC 9457, with `code` (stable) and, for refused values, `violations`."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    hint: str | None = Field(default=None, description="What would do.")
    violations: list[ViolationModel] = Field(default_factory=list)


class BodyRefused(HTTPException):
    """A body that is not JSON as we want it; FastAPI lets only HTTPExceptions out of `json()`."""

    def __init__(self, refusal: refusals.Invalid) -> None:
        super().__init__(status_code=422, detail=str(refusal))
        self.refusal = refusal


_STATUS: Final[tuple[tuple[type[errors.EvacError], int], ...]] = (
    (refusals.Invalid, 422),
    (refusals.NotFound, 404),
    (refusals.Conflict, 409),
    (refusals.Outdated, 412),
    (refusals.Unauthenticated, 401),
    (refusals.Forbidden, 403),
    (errors.InvalidInput, 422),
    (errors.Conflict, 409),
    (errors.BusRefused, 502),
    (errors.Retryable, 503),
)


def install(app: FastAPI) -> None:
    app.add_exception_handler(errors.EvacError, _evac_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(BodyRefused, _body_refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)


def problem(
    status: int,
    detail: str,
    *,
    code: str,
    hint: str = "",
    violations: Sequence[refusals.Violation] = (),
) -> Response:
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        hint=hint or None,
        violations=[
            ViolationModel(field=one.field, value=one.value, rule=one.rule) for one in violations
        ],
    )
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="evac"'
    if status == 503:
        headers["Retry-After"] = RETRY_AFTER_S
    return JSONResponse(
        body.model_dump(mode="json"), status_code=status, headers=headers, media_type=MEDIA
    )


async def _evac_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.EvacError)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    if status is None:
        return await _bug(request, error)
    violations: Sequence[refusals.Violation] = ()
    if isinstance(error, refusals.Invalid):
        violations = error.violations
    elif isinstance(error, errors.InvalidInput):
        one = refusals.Violation(
            field=error.field, value=documents.shown(error.value), rule=error.rule
        )
        violations = [one]
    hint = error.hint if isinstance(error, refusals.Conflict) else ""
    return problem(status, error.message, code=error.code, hint=hint, violations=violations)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if isinstance(error.body, bytes) and error.body:  # FastAPI parses only what is said to be JSON
        return problem(415, "the body must be application/json", code="content_type.unsupported")
    refusal = refusals.Invalid(documents.violations(found, skip=1))
    return await _evac_error(request, refusal)


async def _body_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, BodyRefused)
    return await _evac_error(request, error.refusal)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = problem(error.status_code, str(error.detail), code=f"http.{error.status_code}")
    for key, value in (error.headers or {}).items():
        response.headers[key] = value
    return response


async def _bug(request: Request, error: Exception) -> Response:
    structlog.get_logger().error(
        "request failed by a fault of ours",
        method=request.method,
        path=request.url.path,
        exc_info=error,
    )
    return problem(500, "a fault of ours; the log has it", code="internal")
