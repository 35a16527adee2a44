"""Run candidates in turns, so that a machine that changes its speed changes it for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Microseconds per call: the median of the rounds, the fastest and the slowest."""

    median_us: float
    best_us: float
    worst_us: float

    def __str__(self) -> str:
        return f"{self.median_us:10.1f} µs  ({self.best_us:.1f} to {self.worst_us:.1f})"


def interleaved(
    candidates: Mapping[str, Callable[[], object]], *, calls: int, rounds: int = ROUNDS
) -> dict[str, Timing]:
    """Time each candidate `calls` times a round, candidate by candidate, round by round."""
    seen: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            began_s = time.perf_counter()
            for _ in range(calls):
                call()
            seen[name].append((time.perf_counter() - began_s) / calls * 1e6)
    return {
        name: Timing(median_us=median(times), best_us=min(times), worst_us=max(times))
        for name, times in seen.items()
    }


def show(title: str, timings: Mapping[str, Timing], *, peer: str | None = None) -> None:
    """Print the rows; with a peer, each row's ratio to it."""
    print(f"\n{title}")
    for name, timing in timings.items():
        ratio = (
            f"  {timing.median_us / timings[peer].median_us:5.2f} x {peer}"
            if peer is not None and name != peer
            else ""
        )
        print(f"  {name:<36} {timing}{ratio}")
