"""The times that the promises are measured against: told by the scenario, never by the services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Final, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds, but for the counts and shares. The defaults are design.md section 8."""

    suspect_after_s: float = 8.0
    fence_after_s: float = 20.0
    hold_off_s: float = 60.0
    power_try_s: float = 10.0
    power_tries: int = 3
    resume_after_s: float = 30.0  # a try that a dead monitor left is taken over after this
    blast_radius: float = 0.34
    blast_window_s: float = 3600.0
    sweep_s: float = 5.0
    inventory_s: float = 10.0
    starts_per_node: int = 2
    starts_total: int = 20
    start_s: float = 3.0  # one start, from the command to the report
    backoff_max_s: float = 60.0  # longest pause of whatever is tried again
    restart_pause_max_s: float = 300.0  # longest pause before a guest that falls again and again
    resume_s: float = 10.0  # L5: from a controller's start to its first look at every open item

    @classmethod
    def of(cls, profile: str, settings: Mapping[str, Any] | None = None) -> Self:
        """Of a profile, with a scenario's own settings (`monitor.fence_after_s` and so on)."""
        found = cls(**_PROFILES.get(profile, {}))
        own = {
            field: value
            for name, value in (settings or {}).items()
            if (field := _SETTINGS.get(name)) is not None
        }
        return replace(found, **own)

    def blast_limit(self, nodes: int) -> int:
        return max(1, int(self.blast_radius * nodes + 1e-9))

    def fencing_s(self) -> float:
        """The longest that a fencing may last while a monitor works at it undisturbed (L4)."""
        return self.power_tries * (self.power_try_s + self.sweep_s) + self.resume_after_s

    def restart_s(self, instances: int, targets: int) -> float:
        """The longest from a power cut to the last restart, with a BMC that answers (L2)."""
        at_once = max(1, min(self.starts_total, self.starts_per_node * max(1, targets)))
        waves = ceil(instances / at_once)
        return (
            self.fence_after_s + self.power_try_s + 2 * self.sweep_s + waves * (self.start_s + 1.0)
        )


_PROFILES: Final[Mapping[str, Mapping[str, Any]]] = {
    "fast": {
        "suspect_after_s": 2.0,
        "fence_after_s": 6.0,
        "hold_off_s": 3.0,
        "resume_after_s": 15.0,
        "blast_window_s": 10.0,
        "sweep_s": 1.0,
        "inventory_s": 2.0,
        "starts_per_node": 4,
        "backoff_max_s": 15.0,
    }
}
_SETTINGS: Final[Mapping[str, str]] = {
    **{
        f"monitor.{name}": name
        for name in (
            "suspect_after_s",
            "fence_after_s",
            "hold_off_s",
            "power_try_s",
            "power_tries",
            "resume_after_s",
            "blast_radius",
            "blast_window_s",
        )
    },
    "scheduler.sweep_s": "sweep_s",
    "scheduler.starts_per_node": "starts_per_node",
    "scheduler.starts_total": "starts_total",
    "scheduler.backoff_max_s": "backoff_max_s",
    "compute.inventory_interval_s": "inventory_s",
}
