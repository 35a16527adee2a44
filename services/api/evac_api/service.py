"""Composition root of the api.

    app = create_app(settings, clock=..., bus=..., store=..., admin=..., secrets=...)
    await serve(settings, ..., stop=stop, app=app)  # loops, handlers, HTTP

The simulator calls the app in its own process and runs `serve(..., http=False)` beside it.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import structlog
import uvicorn
from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry

from evac_api import __version__
from evac_api.adapters.desk import open_desk
from evac_api.handlers.http.app import build
from evac_api.handlers.http.exchange import Limits
from evac_api.handlers.requests import Requests
from evac_api.loops import housekeeping
from evac_api.ports import Desk
from evac_api.settings import Settings
from evac_common.bus import topology
from evac_common.bus.admin import BrokerAdmin, ManagementAdmin, ManualAdmin
from evac_common.bus.port import Bus, Delivery, Verdict
from evac_common.bus.rabbitmq import RabbitBus
from evac_common.errors import SettingsRefused, StoreUnavailable
from evac_common.relay.relay import Relay
from evac_common.service.clock import Clock, SystemClock
from evac_common.service.health import serve_health
from evac_common.service.notify import notify
from evac_common.service.periodic import Wake, periodically
from evac_common.service.secrets import SecretBox
from evac_common.service.supervise import run_service, stop_on_signals
from evac_common.store.engine import Store

PREFETCH: Final = 50
DECLARE_S: Final = 1.0  # how often it is looked whether there is a new connection
READY_S: Final = 1.0
WELL_S: Final = 5.0  # how often it is looked while nothing is missing
GRACE_S: Final = 5  # uvicorn: time for open requests when the service stops


def create_app(
    settings: Settings,
    *,
    clock: Clock,
    bus: Bus,
    store: Store,
    admin: BrokerAdmin,
    secrets: SecretBox | None,
    registry: CollectorRegistry = REGISTRY,
) -> FastAPI:
    """The REST api on these parts. Every endpoint is async and starts no thread."""
    desk = open_desk(store, bus, admin, secrets, settings.bus_url_of_nodes())
    limits = Limits(
        poll_s=settings.poll_s,
        wait_max_s=settings.wait_max_s,
        keepalive_s=settings.keepalive_s,
        streams=asyncio.Semaphore(settings.streams_max),
        closing=asyncio.Event(),
    )

    queues = Queues(bus)

    async def not_ready() -> list[str]:
        reasons = []
        try:
            await store.ping()
        except StoreUnavailable as error:
            reasons.append(f"database: {error.message}")
        health = bus.health()
        if not health.connected:
            reasons.append(f"broker: {health.detail or 'not connected'}")
        elif not queues.declared.is_set():
            reasons.append("broker: its queues are not declared yet")
        return reasons

    app = build(
        desk,
        limits,
        not_ready,
        registry,
        clock=clock,
        version=__version__,
        body_bytes_max=settings.body_bytes_max,
    )
    app.state.queues = queues
    return app


class Queues:
    """The controllers' queues, declared at every new connection: a broker may have lost them."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._since_s: float | None = None
        self.declared = asyncio.Event()

    async def step(self) -> None:
        """Wait for a connection; raises as Bus.declare."""
        await self._bus.wait_connected()
        since_s = self._bus.health().connected_since_s
        if since_s != self._since_s:
            await self._bus.declare(topology.CONTROLLER_QUEUES)
            self._since_s = since_s
            self.declared.set()


async def _relay(relay: Relay, queues: Queues) -> None:
    """An event published before its queues exist would reach nobody."""
    await queues.declared.wait()
    await relay.run()


async def serve(
    settings: Settings,
    *,
    clock: Clock,
    bus: Bus,
    store: Store,
    stop: asyncio.Event,
    admin: BrokerAdmin,
    secrets: SecretBox | None,
    app: FastAPI | None = None,
    http: bool = True,
) -> None:
    """Run the api until `stop` is set. Raises the first failure of a task."""
    app = app or create_app(
        settings, clock=clock, bus=bus, store=store, admin=admin, secrets=secrets
    )
    desk: Desk = app.state.desk
    queues: Queues = app.state.queues
    wake = Wake()
    readiness = Readiness(app)
    tasks: dict[str, Coroutine[Any, Any, Any]] = {
        "bus": bus.run(),
        "declare queues": periodically("declare queues", DECLARE_S, queues.step, clock=clock),
        "settle operations": periodically(
            "settle operations",
            settings.settle_s,
            lambda: housekeeping.settle(desk),
            clock=clock,
            wake=wake,
        ),
        "expire": periodically(
            "expire", settings.expire_s, lambda: housekeeping.expire(desk), clock=clock
        ),
        "relay": _relay(Relay(store, bus, clock), queues),
        "receive": _receive(bus, Requests(desk), wake),
        "watch readiness": readiness.watch(),
    }
    if http:
        tasks["serve http"] = _serve_http(settings, app)
        tasks["serve health"] = serve_health(settings.health_port, lambda: readiness.reasons)
    await run_service("api", tasks, stop)


async def _receive(bus: Bus, requests: Requests, wake: Wake) -> None:
    """Requests are carried out; events only say that it is worth looking now."""

    async def nudged(delivery: Delivery) -> Verdict:
        wake.set()
        return Verdict.ACK

    await bus.consume(topology.API_EVENTS, nudged, prefetch=PREFETCH)
    await bus.consume(topology.API_REQUESTS, requests.receive, prefetch=PREFETCH)
    await asyncio.Event().wait()


class Readiness:
    """Why requests cannot be carried out now; looked at again and again, said when it changes."""

    def __init__(self, app: FastAPI) -> None:
        self._not_ready = app.state.not_ready
        self.reasons: list[str] = ["starting"]

    async def watch(self) -> None:
        log = structlog.get_logger()
        said: list[str] | None = None
        while True:
            self.reasons = await self._not_ready()
            kinds = [reason.partition(":")[0] for reason in self.reasons]
            if kinds != said:
                if self.reasons:
                    log.warning("not ready", why="; ".join(self.reasons))
                else:
                    log.info("ready")
                    notify("READY=1")
                said = kinds
            await asyncio.sleep(READY_S if self.reasons else WELL_S)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the service's business (`stop_on_signals`), not the server's."""
        yield


async def _serve_http(settings: Settings, app: FastAPI) -> None:
    """Serve until cancelled; then let open requests end, streams and long polls at once."""
    listener = _listener(settings)
    tls = settings.tls_certificate_file
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        http="h11",
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
        ssl_certfile=str(tls) if tls else None,
        ssl_keyfile=str(settings.tls_key_file) if settings.tls_key_file else None,
    )
    server = _Server(config)
    address = "{}:{}".format(*listener.getsockname()[:2])
    structlog.get_logger().info("listening", address=address, tls=tls is not None)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="uvicorn")
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        limits: Limits = app.state.limits
        limits.closing.set()
        server.should_exit = True
        await serving
        raise
    finally:
        listener.close()


def _listener(settings: Settings) -> socket.socket:
    if settings.listen_fd is not None:
        return socket.socket(fileno=settings.listen_fd)
    host, _, port = settings.listen.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        )[0]
    except OSError as error:
        raise SettingsRefused(f"listen: {settings.listen} is no address: {error}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        listener.close()
        raise SettingsRefused(f"listen: cannot listen on {settings.listen}: {error}") from error
    return listener


def open_admin(settings: Settings) -> BrokerAdmin:
    """Through RabbitMQ's management API if its address is set; else commands for a person."""
    bus = urlsplit(settings.bus_url.get_secret_value())
    vhost = unquote(bus.path.removeprefix("/")) or "/"
    if settings.management_url is None:
        return ManualAdmin(vhost=vhost)
    url = urlsplit(settings.management_url.get_secret_value())
    if not url.hostname or url.username is None or url.password is None:
        raise SettingsRefused("management_url: must be http(s)://USER:PASSWORD@HOST:PORT")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return ManagementAdmin.connect(
        f"{url.scheme}://{host}:{url.port or 15672}",
        user=unquote(url.username),
        password=unquote(url.password),
        vhost=vhost,
    )


def open_store(settings: Settings) -> Store:
    name = settings.name or f"{platform.node()}:{os.getpid()}"
    return Store.open(
        settings.database_url.get_secret_value(), service="api", clock=SystemClock(), instance=name
    )


async def run(settings: Settings) -> None:
    """Run with the real broker and database until SIGTERM or SIGINT."""
    clock = SystemClock()
    stop = stop_on_signals()
    key = settings.secret_key_path()
    secrets = SecretBox.from_file(key) if key is not None else None
    admin = open_admin(settings)
    store = open_store(settings)
    try:
        await serve(
            settings,
            clock=clock,
            bus=RabbitBus(settings.bus_url.get_secret_value(), clock=clock),
            store=store,
            stop=stop,
            admin=admin,
            secrets=secrets,
        )
    finally:
        await store.close()
        if isinstance(admin, ManagementAdmin):
            await admin.aclose()
