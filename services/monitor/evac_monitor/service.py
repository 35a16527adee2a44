"""Puts the monitor together: the only module that names concrete classes."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from evac_common.bus import topology
from evac_common.bus.inbox import receive
from evac_common.bus.port import Bus
from evac_common.bus.rabbitmq import RabbitBus
from evac_common.bus.timings import BusTimings
from evac_common.messages.events import ClusterIntent, NodeIntent
from evac_common.messages.heartbeats import Heartbeat
from evac_common.messages.reports import Registered, SessionApplied
from evac_common.model.states import PowerKind
from evac_common.relay.relay import Relay
from evac_common.service.clock import Clock, SystemClock
from evac_common.service.health import serve_health
from evac_common.service.notify import notify
from evac_common.service.periodic import Wake, periodically
from evac_common.service.secrets import SecretBox
from evac_common.service.supervise import run_service, stop_on_signals
from evac_common.store.engine import Store
from evac_monitor.adapters.power_ipmi import IpmiPower
from evac_monitor.adapters.power_redfish import RedfishPower
from evac_monitor.adapters.store import StoreRecords
from evac_monitor.core.watch import Elsewhere, Watch
from evac_monitor.handlers import Handlers
from evac_monitor.loops.bmcs import Bmcs
from evac_monitor.loops.fencer import Fencer
from evac_monitor.loops.prober import Prober
from evac_monitor.loops.pulse import PROBE_S, probe, pulse
from evac_monitor.loops.sweep import sweep
from evac_monitor.loops.tick import tick
from evac_monitor.ports import Peers, PowerDriver, SecondChannel, Secrets
from evac_monitor.process import Monitor
from evac_monitor.settings import Settings

Step = Callable[[], Awaitable[object]]
Work = Coroutine[Any, Any, Any]

REPORTS_PREFETCH: Final = 50
BEATS_PREFETCH: Final = 500
FENCE_PERIOD_S: Final = 1.0
READY_S: Final = 1.0


async def serve(
    settings: Settings,
    *,
    clock: Clock,
    bus: Bus,
    store: Store,
    stop: asyncio.Event,
    power: Mapping[PowerKind, PowerDriver],
    secrets: Secrets,
    second_channel: SecondChannel | None = None,
    peers: Peers | None = None,
) -> None:
    """Run until `stop` is set. Broker or database away: waits for them, and says so once.

    Without `second_channel` and `peers` their gates are open, and say that there is none.
    """
    # A life's own name: tries that an earlier life left behind must not look like ours.
    life = f"{settings.name or 'monitor'}/{clock.new_id()[:12]}"
    monitor = Monitor(
        settings=settings,
        clock=clock,
        bus=bus,
        records=StoreRecords(store, monitor=life),
        watch=Watch(since_s=clock.monotonic()),
        elsewhere=Elsewhere(slack_s=settings.sweep_s + settings.heartbeat_interval_s),
        has_second_channel=second_channel is not None,
        has_peers=peers is not None,
    )
    bmcs = Bmcs(power, secrets)
    fencer = Fencer(monitor, bmcs)
    prober = Prober(monitor, bmcs, second_channel=second_channel, peers=peers)

    def every(name: str, period_s: float, step: Step, wake: Wake | None = None) -> Work:
        return periodically(name, period_s, step, clock=clock, wake=wake)

    tasks: dict[str, Work] = {
        "bus": bus.run(),
        "relay": Relay(store, bus, clock).run(),
        "receive": _receive(monitor, heartbeats=clock.new_id()),
        "pulse": every("pulse", settings.tick_s, lambda: pulse(monitor)),
        "probe": every("probe", PROBE_S, lambda: probe(monitor)),
        "tick": every("tick", settings.tick_s, lambda: tick(monitor)),
        "sweep": every("sweep", settings.sweep_s, lambda: sweep(monitor), monitor.sweep_wake),
        "probe others": every("probe others", settings.tick_s, prober.step),
        "fencing": every("fencing", FENCE_PERIOD_S, fencer.step, monitor.fence_wake),
        "serve health": serve_health(settings.health_port, monitor.not_ready),
        "tell readiness": every("readiness", READY_S, lambda: _tell_ready(monitor)),
    }
    try:
        await run_service("monitor", tasks, stop)
    finally:
        await fencer.close()
        await prober.close()


async def _receive(monitor: Monitor, *, heartbeats: str) -> None:
    """Every queue is declared at each connect; the one of the heartbeats is this life's own."""
    handlers, bus = Handlers(monitor), monitor.bus
    reports = receive({Registered: handlers.registered, SessionApplied: handlers.session_applied})
    nudges = receive({NodeIntent: handlers.nudge, ClusterIntent: handlers.nudge})
    beats = receive({Heartbeat: handlers.heartbeat})
    consumers = [
        await bus.consume(topology.MONITOR_REPORTS, reports, prefetch=REPORTS_PREFETCH),
        await bus.consume(topology.MONITOR_EVENTS, nudges, prefetch=REPORTS_PREFETCH),
        await bus.consume(topology.heartbeat_queue(heartbeats), beats, prefetch=BEATS_PREFETCH),
    ]
    try:
        await asyncio.Event().wait()
    finally:
        for consumer in consumers:
            await consumer.cancel()


async def _tell_ready(monitor: Monitor) -> None:
    """Once: from the first moment at which everything is there."""
    if not monitor.told_ready and not monitor.not_ready():
        monitor.told_ready = True
        notify("READY=1")


async def run(settings: Settings) -> None:
    """Run with the real broker, database and BMCs until SIGTERM or SIGINT."""
    clock = SystemClock()
    stop = stop_on_signals()
    secrets = SecretBox.from_file(settings.secret_key_path())
    name = settings.name or f"{platform.node()}:{os.getpid()}"
    store = Store.open(
        settings.database_url.get_secret_value(), service="monitor", clock=clock, instance=name
    )
    timings = BusTimings(backoff_max_s=settings.reconnect_cap_s)
    bus = RabbitBus(settings.bus_url.get_secret_value(), clock=clock, timings=timings)
    try:
        await serve(
            settings.model_copy(update={"name": name}),
            clock=clock,
            bus=bus,
            store=store,
            stop=stop,
            power={
                PowerKind.IPMI: IpmiPower(call_limit_s=settings.power_call_s),
                PowerKind.REDFISH: RedfishPower(call_limit_s=settings.power_call_s),
            },
            secrets=secrets,
        )
    finally:
        await store.close()
