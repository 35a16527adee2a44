"""Puts the scheduler together: the only module that names concrete classes."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Coroutine
from typing import Any, Final

from evac_common.bus import topology
from evac_common.bus.inbox import receive
from evac_common.bus.port import Bus, Delivery, Verdict
from evac_common.bus.rabbitmq import RabbitBus
from evac_common.bus.timings import BusTimings
from evac_common.errors import StoreUnavailable
from evac_common.messages import reports as wire
from evac_common.messages.events import NodeEnrolled
from evac_common.relay.relay import Relay
from evac_common.service.clock import Clock, SystemClock
from evac_common.service.health import serve_health
from evac_common.service.notify import notify
from evac_common.service.periodic import Wake, periodically
from evac_common.service.supervise import run_service, stop_on_signals
from evac_common.store.engine import Store
from evac_scheduler.adapters.store import SqlDatabase
from evac_scheduler.handlers.reports import Reports
from evac_scheduler.loops.queues import CommandQueues
from evac_scheduler.loops.reconciler import Reconciler
from evac_scheduler.settings import Settings

PREFETCH: Final = 50
READY_S: Final = 1.0
WELL_S: Final = 5.0  # how often it is looked while nothing is missing
QUEUES_S: Final = 5.0  # an event says sooner that a node was enrolled


async def serve(
    settings: Settings, *, clock: Clock, bus: Bus, store: Store, stop: asyncio.Event
) -> None:
    """Run until `stop` is set. Broker or database away: waits for them, and says so once."""
    wake, enrolled = Wake(), Wake()
    database = SqlDatabase(store)
    reconciler = Reconciler(database, clock, settings.policy)
    handlers = Reports(database, settings.policy, wake)
    queues = CommandQueues(database, bus)
    readiness = Readiness(bus, store)
    tasks: dict[str, Coroutine[Any, Any, Any]] = {
        "bus": bus.run(),
        "declare queues": periodically(
            "declare queues",
            min(QUEUES_S, settings.sweep_s),
            queues.step,
            clock=clock,
            wake=enrolled,
        ),
        "relay": Relay(store, bus, clock).run(),
        "receive": _receive(bus, handlers, wake, enrolled),
        "reconcile": periodically(
            "reconcile", settings.sweep_s, reconciler.step, clock=clock, wake=wake
        ),
        "watch readiness": periodically(
            "readiness",
            lambda: READY_S if readiness.reasons else WELL_S,
            readiness.step,
            clock=clock,
        ),
        "serve health": serve_health(settings.health_port, lambda: readiness.reasons),
    }
    await run_service("scheduler", tasks, stop)


async def _receive(bus: Bus, handlers: Reports, wake: Wake, enrolled: Wake) -> None:
    """Reports are applied; events, whatever they say, only mean that it is worth looking now."""

    async def nudged(delivery: Delivery) -> Verdict:
        wake.set()
        if delivery.routing_key.startswith(f"{NodeEnrolled.name}."):
            enrolled.set()
        return Verdict.ACK

    reports = receive(
        {
            wire.Started: handlers.started,
            wire.StartFailed: handlers.start_failed,
            wire.StartRefused: handlers.start_refused,
            wire.Stopped: handlers.stopped,
            wire.Exited: handlers.exited,
            wire.Destroyed: handlers.destroyed,
            wire.Inventory: handlers.inventory,
            wire.CommandRefused: handlers.command_refused,
        }
    )
    consumers = [
        await bus.consume(topology.SCHEDULER_REPORTS, reports, prefetch=PREFETCH),
        await bus.consume(topology.SCHEDULER_EVENTS, nudged, prefetch=PREFETCH),
    ]
    try:
        await asyncio.Event().wait()
    finally:
        for consumer in consumers:
            await consumer.cancel()


class Readiness:
    """Why nothing can be decided or sent now; looked at again and again."""

    def __init__(self, bus: Bus, store: Store) -> None:
        self._bus = bus
        self._store = store
        self.reasons = ["starting"]

    async def step(self) -> None:
        reasons = []
        try:
            await self._store.ping()
        except StoreUnavailable as error:
            reasons.append(f"database: {error.message}")
        health = self._bus.health()
        if not health.connected:
            reasons.append(f"broker: {health.detail or 'not connected'}")
        if self.reasons and not reasons:
            notify("READY=1")
        self.reasons = reasons


async def run(settings: Settings) -> None:
    """Run with the real broker and database until SIGTERM or SIGINT."""
    clock = SystemClock()
    stop = stop_on_signals()
    store = Store.open(
        settings.database_url.get_secret_value(),
        service="scheduler",
        clock=clock,
        instance=settings.name or f"{platform.node()}:{os.getpid()}",
    )
    timings = BusTimings(backoff_max_s=settings.reconnect_cap_s)
    bus = RabbitBus(settings.bus_url.get_secret_value(), clock=clock, timings=timings)
    try:
        await serve(settings, clock=clock, bus=bus, store=store, stop=stop)
    finally:
        await store.close()
