"""Puts the monitor together: the only module that names concrete classes."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from evac_common.bus import topology
from evac_common.bus.inbox import receive
from evac_common.bus.port import Bus
from evac_common.errors import SettingsRefused
from evac_common.messages.events import ClusterIntent, NodeIntent
from evac_common.messages.heartbeats import Heartbeat
from evac_common.messages.reports import Registered, SessionApplied
from evac_common.model.states import PowerKind
from evac_common.relay.relay import Relay
from evac_common.service.clock import Clock, SystemClock
from evac_common.service.health import serve_health
from evac_common.service.notify import notify
from evac_common.service.periodic import periodically
from evac_common.service.secrets import SecretBox
from evac_common.service.supervise import run_service, stop_on_signals
from evac_common.store.engine import Store
from evac_monitor.adapters.power_ipmi import IpmiPower
from evac_monitor.adapters.store import StoreRecords
from evac_monitor.core.watch import Watch
from evac_monitor.handlers import Handlers
from evac_monitor.loops.fencer import Fencer
from evac_monitor.loops.pulse import PROBE_S, probe, pulse
from evac_monitor.loops.sweep import sweep
from evac_monitor.loops.tick import tick
from evac_monitor.ports import PowerDriver, Secrets
from evac_monitor.process import Monitor
from evac_monitor.settings import Settings

REPORTS_PREFETCH = 50
HEARTBEATS_PREFETCH = 500
FENCE_PERIOD_S = 1.0


async def serve(
    settings: Settings,
    *,
    clock: Clock,
    bus: Bus,
    store: Store,
    stop: asyncio.Event,
    power: Mapping[PowerKind, PowerDriver],
    secrets: Secrets,
) -> None:
    """Run until `stop` is set. Broker or database away: waits for them, and says so once."""
    life = f"{settings.name or 'monitor'}/{clock.new_id()[:12]}"
    monitor = Monitor(
        settings=settings,
        clock=clock,
        bus=bus,
        records=StoreRecords(store, monitor=life),
        watch=Watch(since_s=clock.monotonic()),
    )
    fencer = Fencer(monitor, power, secrets)
    async with _consuming(monitor, clock.new_id()):
        try:
            await run_service(
                "monitor",
                {
                    "bus": bus.run(),
                    "relay": Relay(store, bus, clock).run(),
                    "pulse": periodically(
                        "pulse", settings.tick_s, lambda: pulse(monitor), clock=clock
                    ),
                    "probe": periodically("probe", PROBE_S, lambda: probe(monitor), clock=clock),
                    "tick": periodically(
                        "tick", settings.tick_s, lambda: tick(monitor), clock=clock
                    ),
                    "sweep": periodically(
                        "sweep",
                        settings.sweep_s,
                        lambda: sweep(monitor),
                        clock=clock,
                        wake=monitor.sweep_wake,
                    ),
                    "fencing": periodically(
                        "fencing",
                        FENCE_PERIOD_S,
                        fencer.step,
                        clock=clock,
                        wake=monitor.fence_wake,
                    ),
                    "health": serve_health(settings.health_port, monitor.not_ready),
                },
                stop,
            )
        finally:
            await fencer.close()


@asynccontextmanager
async def _consuming(monitor: Monitor, queue_id: str) -> AsyncIterator[None]:
    """Receive from the start: every queue is declared at each connect."""
    handlers = Handlers(monitor)
    reports = receive(
        {Registered: handlers.registered, SessionApplied: handlers.session_applied},
    )
    nudges = receive({NodeIntent: handlers.nudge, ClusterIntent: handlers.nudge})
    heartbeats = receive({Heartbeat: handlers.heartbeat})
    bus = monitor.bus
    consumers = [
        await bus.consume(topology.MONITOR_REPORTS, reports, prefetch=REPORTS_PREFETCH),
        await bus.consume(topology.MONITOR_EVENTS, nudges, prefetch=REPORTS_PREFETCH),
        await bus.consume(
            topology.heartbeat_queue(queue_id), heartbeats, prefetch=HEARTBEATS_PREFETCH
        ),
    ]
    try:
        yield
    finally:
        for consumer in consumers:
            await consumer.cancel()
