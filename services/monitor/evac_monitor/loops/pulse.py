"""Is this process itself well? Its loop, its clock, its broker, its database."""

from __future__ import annotations

from evac_common.errors import StoreUnavailable
from evac_monitor.process import Monitor

PROBE_S = 1.0  # half of what the gate tolerates


async def pulse(monitor: Monitor) -> None:
    """One beat. Must not wait for anything: its own lateness is what it measures."""
    clock = monitor.clock
    health = monitor.bus.health()
    torn = (
        monitor.vitals.pulse(
            now_s=clock.monotonic(),
            wall_s=clock.now().timestamp(),
            period_s=monitor.settings.tick_s,
        ),
        monitor.vitals.connection(health.connected_since_s if health.connected else None),
    )
    for cause in torn:
        if cause:
            monitor.discontinue(cause)


async def probe(monitor: Monitor) -> None:
    """Write to the database. A database that came back may be another one: the term tells."""
    try:
        if not monitor.prepared:
            await monitor.records.prepare()
            monitor.prepared = True
        await monitor.records.probe()
    except StoreUnavailable:
        monitor.vitals.write_failed()
        raise
    cause = monitor.vitals.wrote(monitor.clock.monotonic())
    if cause:
        monitor.discontinue(cause)
        await monitor.records.prepare()
