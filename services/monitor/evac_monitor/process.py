"""What the loops and handlers of one process share."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from evac_common.bus.port import Bus
from evac_common.service.clock import Clock
from evac_common.service.periodic import Wake
from evac_monitor.core.watch import Vitals, Watch
from evac_monitor.ports import Records
from evac_monitor.settings import Settings


@dataclass(slots=True, kw_only=True)
class Monitor:
    """One process: its ports, and what it holds in memory."""

    settings: Settings
    clock: Clock
    bus: Bus
    records: Records
    watch: Watch
    vitals: Vitals = field(default_factory=Vitals)
    sweep_wake: Wake = field(default_factory=Wake)
    fence_wake: Wake = field(default_factory=Wake)
    prepared: bool = False  # the flags were read once; until then nothing can be judged
    doomed: bool = True  # some node is in fencing or blocked, as far as the last tick saw
    told_ready: bool = False
    held: dict[tuple[str, datetime], set[str]] = field(default_factory=dict)
    log: Any = field(default_factory=lambda: structlog.get_logger().bind(service="monitor"))

    def discontinue(self, cause: str) -> None:
        self.watch.discontinue(cause, self.clock.monotonic())
        self.log.warning("hold-off begins", why=cause, hold_off_s=self.settings.hold_off_s)

    def not_ready(self) -> list[str]:
        """Reasons for `/readyz`."""
        reasons = []
        health = self.bus.health()
        if not health.connected:
            reasons.append(f"the broker is away: {health.detail}")
        age_s = self.vitals.health(
            now_s=self.clock.monotonic(), canary_at_s=health.canary_at_s
        ).write_age_s
        if not self.prepared or age_s is None or age_s > max(5.0, self.settings.sweep_s):
            reasons.append("the database is away")
        return reasons
