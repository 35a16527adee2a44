"""The numbers that the scheduler's decisions depend on."""

from __future__ import annotations

from dataclasses import dataclass, field

from evac_scheduler.core import evacuation, reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    limits: evacuation.Limits = field(default_factory=evacuation.Limits)
    reports: reports.Policy = field(default_factory=reports.Policy)
    command_deadline_s: float = 60.0  # a start is refused by the node after this
    resend_min_s: float = 5.0
    resend_max_s: float = 60.0  # a silent node's queue must not fill
    stop_grace_s: float = 30.0  # for the guest to power off, then by force
    open_alarm_s: float = 300.0  # an instance of a dead node that does not run elsewhere by then
    open_alarm_again_s: float = 1800.0

    @property
    def longest_pause_s(self) -> float:
        """Before an instance is looked at again."""
        rules = self.reports
        return max(rules.start_backoff_max_s, rules.storage_retry_s, rules.restart_max_s)
