"""What the loops and handlers of one process share."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from evac_common.bus.port import Bus
from evac_common.service.clock import Clock
from evac_common.service.periodic import Wake
from evac_monitor.core.suspicion import AllSilent
from evac_monitor.core.trouble import Answers
from evac_monitor.core.watch import JUMPS_KEPT_S, Elsewhere, Jumped, Vitals, Watch
from evac_monitor.core.witnesses import Witnesses
from evac_monitor.ports import NodeRow, Records, Snapshot
from evac_monitor.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """A silent node that others should be asked about."""

    node: NodeRow
    power: bool  # also its BMC, whether it has power


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows as they were read, and when, by the monotonic clock."""

    snapshot: Snapshot
    at_s: float


@dataclass(slots=True, kw_only=True)
class Monitor:
    """One process: its ports, and what it holds in memory."""

    settings: Settings
    clock: Clock
    bus: Bus
    records: Records
    watch: Watch
    elsewhere: Elsewhere
    vitals: Vitals = field(default_factory=Vitals)
    sweep_wake: Wake = field(default_factory=Wake)
    fence_wake: Wake = field(default_factory=Wake)
    prepared: bool = False  # the flags were read once; until then nothing can be judged
    doomed: bool = True  # some node is in fencing or blocked, as far as the last tick saw
    remembered: Rows | None = None  # None: to be read before anything is judged
    told_ready: bool = False
    answers: Answers = field(default_factory=Answers)  # to the scheduler's commands
    has_second_channel: bool = False
    has_peers: bool = False
    peers: dict[str, str] = field(default_factory=dict)  # id → name of nodes that may be asked
    probing: dict[str, Probing] = field(default_factory=dict)  # by node id, longest silent first
    # node id → the incarnation that was asked about, and what was answered
    witnesses: dict[str, tuple[int, Witnesses]] = field(default_factory=dict)
    all_silent: AllSilent | None = None
    many_dead_since_s: float | None = None  # more than the gate lets be fenced
    held: dict[tuple[str, datetime], set[str]] = field(default_factory=dict)
    log: Any = field(default_factory=lambda: structlog.get_logger().bind(service="monitor"))

    def discontinue(self, cause: str) -> None:
        self.watch.discontinue(cause, self.clock.monotonic())
        self.answers.forget()
        self.log.warning("hold-off begins", why=cause, hold_off_s=self.settings.hold_off_s)

    def another_database(self, cause: str) -> None:
        """A new term begins: what was decided in an earlier one switches nothing off any more."""
        self.discontinue(cause)
        self.fence_wake.set()

    def blast_window_s(self) -> float:
        """How far back a fencing counts, by the wall clock that wrote when it was.

        Longer by whatever that clock has jumped forward since: no fencing is forgotten for it.
        """
        window_s = self.settings.blast_window_s
        return window_s + self._jumped(window_s).ahead_s

    def set_back_s(self) -> float:
        """By how much a moment of the past may look too new: our wall clock was set back since."""
        return self._jumped(JUMPS_KEPT_S).back_s

    def _jumped(self, within_s: float) -> Jumped:
        return self.vitals.jumped(
            now_s=self.clock.monotonic(),
            wall_s=self.clock.now().timestamp(),
            within_s=within_s,
        )

    def witnesses_of(self, node: NodeRow) -> Witnesses:
        """What was answered about this incarnation, however long ago."""
        incarnation, found = self.witnesses.get(node.node_id, (0, Witnesses()))
        return found if incarnation == node.incarnation else Witnesses()

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
