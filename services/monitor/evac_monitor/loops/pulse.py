"""Is this process itself well? Its loop, its clock, its broker, its database."""

from __future__ import annotations

from evac_common.errors import StoreUnavailable
from evac_monitor.process import Monitor

PROBE_S = 1.0  # half of what the gate tolerates


async def pulse(monitor: Monitor) -> None:
    """One beat. Must not wait for anything: its own lateness is what it measures."""
    clock = monitor.clock
    cause = monitor.vitals.pulse(
        now_s=clock.monotonic(),
        wall_s=clock.now().timestamp(),
        period_s=monitor.settings.tick_s,
    )
    if cause:
        monitor.discontinue(cause)
    feel_connection(monitor)


def feel_connection(monitor: Monitor) -> None:
    """Notice a new connection to the broker: what was not heard before it says nothing.

    Also whoever judges silence asks this first. The first canary may be back before the next beat,
    and then nothing but this tells an outage of the broker from the death of every node.
    """
    health = monitor.bus.health()
    cause = monitor.vitals.connection(health.connected_since_s if health.connected else None)
    if cause:
        monitor.discontinue(cause)


async def probe(monitor: Monitor) -> None:
    """Write to the database. A database that came back may be another one: the term tells."""
    try:
        if not monitor.prepared:
            await prepare(monitor)
        await monitor.records.probe()
    except StoreUnavailable:
        monitor.vitals.write_failed()
        raise
    cause = monitor.vitals.wrote(monitor.clock.monotonic())
    if cause:
        monitor.discontinue(cause)
        await prepare(monitor)


async def prepare(monitor: Monitor) -> None:
    """Read whether this is still the same database, and notice when it is not."""
    if await monitor.records.prepare():
        monitor.another_database("the database is another one: the term rose")
    monitor.prepared = True
