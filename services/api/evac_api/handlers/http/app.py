"""The ASGI application: routes, problems, limits, and one canonical line and metric per request."""

from __future__ import annotations

from typing import Any, Final

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evac_api.handlers.http import (
    cluster,
    declarations,
    events,
    health,
    instances,
    nodes,
    operations,
    pools,
    problems,
)
from evac_api.handlers.http.exchange import Limits
from evac_api.ports import Desk
from evac_common.service.clock import Clock

REQUESTS: Final = Counter(
    "evac_api_requests_total", "Requests, by route and status.", ["method", "route", "status"]
)
TOOK: Final = Histogram("evac_api_request_seconds", "Time to the end of a request.", ["route"])

_DESCRIPTION: Final = """\
High availability for plain KVM/libvirt hosts: when a host dies, its virtual machines run elsewhere,
every one of them, each exactly once, and anyone can see why.

* What takes time answers 202 and an operation to follow (`GET /v1/operations/{id}?wait=30`).
* A refusal is a problem document (RFC 9457): `violations` names field, value and rule. Nothing of a
  refused request is stored.
* `Idempotency-Key` makes repeating a request safe; `If-Match` with an ETag makes changing one safe.
"""


def build(
    desk: Desk,
    limits: Limits,
    not_ready: health.NotReady,
    registry: CollectorRegistry,
    *,
    clock: Clock,
    version: str,
    body_bytes_max: int,
) -> FastAPI:
    app = FastAPI(
        title="evac",
        version=version,
        description=_DESCRIPTION,
        openapi_url="/openapi.json",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.desk = desk
    app.state.limits = limits
    app.state.not_ready = not_ready
    app.state.registry = registry
    for part in (
        nodes,
        pools,
        instances,
        declarations,
        operations,
        events,
        cluster,
        health,
    ):
        app.include_router(part.router)
    problems.install(app)
    app.add_middleware(Bounded, body_bytes_max=body_bytes_max)
    app.add_middleware(Measured, clock=clock)
    return app


class Bounded:
    """Refuses a body that is too large: at once when it says so, else as soon as it is.

    FastAPI's own `max_body_size` does the same, but answers in plain text.
    """

    def __init__(self, app: ASGIApp, body_bytes_max: int) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rule = f"the body is larger than {self._body_bytes_max} bytes"
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced[:18]) > self._body_bytes_max:
            refusal = problems.problem(413, rule, code="http.413")
            await refusal(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._body_bytes_max:
                raise HTTPException(413, rule)
            return message

        await self._app(scope, counted, send)


class Measured:
    """Counts and logs every request; knows the route only after the router has run."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = self._clock.monotonic()
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route: Any = scope.get("route")
            path = getattr(route, "path", "none")
            took_s = self._clock.monotonic() - began_s
            method = scope["method"] if route is not None else "other"  # it may be any word
            REQUESTS.labels(method, path, str(status)).inc()
            TOOK.labels(path).observe(took_s)
            if path not in ("/livez", "/readyz", "/metrics"):
                structlog.get_logger().info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    took_s=round(took_s, 4),
                )
