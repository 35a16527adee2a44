"""What arrives: registrations, session reports, heartbeats, nudges.

Reports are acknowledged after the transaction that settled them; while the database is away they
come again later. Heartbeats only touch memory. A nudge carries nothing: the sweep re-reads rows.
"""

from __future__ import annotations

from evac_common.bus.port import Verdict
from evac_common.errors import Conflict, StoreUnavailable
from evac_common.messages.codec import Envelope
from evac_common.messages.events import ClusterIntent, NodeIntent
from evac_common.messages.heartbeats import Heartbeat
from evac_common.messages.reports import Registered, SessionApplied
from evac_monitor.process import Monitor


class Handlers:
    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    async def registered(self, envelope: Envelope, report: Registered) -> Verdict:
        monitor = self._monitor
        try:
            handled = await monitor.records.register(report)
        except (StoreUnavailable, Conflict) as error:
            # The loops say once that the database is away; messages come by the hundred.
            monitor.log.debug("registration waits", node_id=report.node_id, why=str(error))
            return Verdict.RETRY
        log = monitor.log.info if handled.changed else monitor.log.debug
        log(
            "registration",
            node_id=report.node_id,
            incarnation=report.incarnation,
            why=handled.why,
        )
        if handled.changed:
            monitor.remembered = None
            monitor.fence_wake.set()
        else:
            monitor.sweep_wake.set()  # perhaps an enrolment that was not swept yet
        return Verdict.ACK

    async def session_applied(self, envelope: Envelope, report: SessionApplied) -> Verdict:
        monitor = self._monitor
        try:
            handled = await monitor.records.session_applied(report)
        except (StoreUnavailable, Conflict) as error:
            monitor.log.debug("session report waits", node_id=report.node_id, why=str(error))
            return Verdict.RETRY
        log = monitor.log.info if handled.changed else monitor.log.debug
        log("session applied", node_id=report.node_id, why=handled.why)
        if handled.changed:
            monitor.remembered = None
        if report.quarantined:
            monitor.log.error(
                "domains in quarantine", node_id=report.node_id, instances=list(report.quarantined)
            )
        return Verdict.ACK

    async def heartbeat(self, envelope: Envelope, beat: Heartbeat) -> Verdict:
        self._monitor.watch.hear(
            beat.node_id,
            incarnation=beat.incarnation,
            term=beat.term,
            now_s=self._monitor.clock.monotonic(),
            troubles=beat.troubles,
        )
        return Verdict.ACK

    async def nudge(self, envelope: Envelope, event: NodeIntent | ClusterIntent) -> Verdict:
        self._monitor.sweep_wake.set()
        return Verdict.ACK
