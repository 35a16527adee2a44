"""What a hunt consisted of: counts merged over its runs, and what they must reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from evac_lab.hunt.live import Failure, Lived
from evac_lab.oracle.ends import percentile

# The fault matrix, component by fault, as far as the simulated world has it. G, the guard, does not
# exist yet. Every cell is struck by what `spells` and `stories` say.
COMPONENTS: Final[Mapping[str, str]] = {
    "A": "api",
    "S": "scheduler",
    "M": "monitor",
    "C": "compute, node",
    "B": "broker, bus",
    "D": "database",
    "V": "libvirt, guest",
    "P": "BMC",
    "N": "storage",
    "W": "network",
}
CELLS: Final[Mapping[str, tuple[str, ...]]] = {
    "A": ("kill", "hang", "stop", "jump", "rate"),
    "S": ("kill", "hang", "stop", "jump", "rate"),
    "M": ("kill", "hang", "stop", "jump", "rate"),
    "C": ("kill", "hang", "stop", "jump", "rate", "power", "restore", "identity"),
    "B": ("off", "alarm", "lose", "duplicate", "delay", "reorder"),
    "D": ("off", "slow", "readonly", "lose-ack", "restore"),
    "V": (
        *("hang", "kill", "slow"),
        *("poweroff", "crash", "panic", "lost", "refuse-start", "die-early"),
    ),
    "P": ("off", "slow", "lies", "wrong"),
    "N": ("off", "slow", "locked"),
    "W": ("off", "in", "out"),
}
NOISE: Final = frozenset(("B", kind) for kind in ("lose", "duplicate", "delay", "reorder"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Least counts of a hunt that says something."""

    faults: int = 5000
    evacuations: int = 500
    cell: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One seed's run."""

    seed: int
    lived: Lived
    took_s: float


@dataclass(slots=True)
class Totals:
    runs: int = 0
    lasted_s: float = 0.0  # virtual
    steps: int = 0
    evacuations: int = 0
    starts: int = 0
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    restart_times_s: list[float] = field(default_factory=list)
    failures: list[tuple[int, Failure]] = field(default_factory=list)  # with their seeds

    def add(self, ran: Ran) -> None:
        lived = ran.lived
        self.runs += 1
        self.lasted_s += lived.lasted_s
        self.steps += lived.steps
        self.evacuations += lived.evacuations
        self.starts += lived.starts
        self.faults.update(lived.faults)
        self.restart_times_s += lived.restart_times_s
        self.failures += [(ran.seed, failure) for failure in lived.failures]

    @property
    def cluster_hours(self) -> float:
        return self.lasted_s / 3600.0

    @property
    def noise(self) -> int:
        """Messages that were touched."""
        return sum(count for cell, count in self.faults.items() if cell in NOISE)

    @property
    def struck(self) -> int:
        """Faults; messages touched by noise, many thousands, are none by themselves."""
        return self.faults.total() - self.noise

    @property
    def recovery(self) -> tuple[float, float] | None:
        """Median and 95th percentile, in seconds, from a power cut to running again."""
        times_s = sorted(self.restart_times_s)
        p95_s = percentile(times_s, 0.95)
        return None if p95_s is None else (median(times_s), p95_s)

    def failing_seeds(self) -> Sequence[int]:
        return sorted({seed for seed, _ in self.failures})


def missed(totals: Totals, targets: Targets) -> list[str]:
    """A sentence for every target that was not reached."""
    found = []
    if totals.struck < targets.faults:
        found.append(f"{totals.struck} faults, of at least {targets.faults}")
    if totals.evacuations < targets.evacuations:
        found.append(f"{totals.evacuations} evacuations, of at least {targets.evacuations}")
    for component, kinds in CELLS.items():
        for kind in kinds:
            count = totals.faults[component, kind]
            if count < targets.cell:
                found.append(f"{component} {kind}: {count} times, of at least {targets.cell}")
    return found
