"""The judge: from what the hypervisors did, did anything run twice, and was anything lost?

Shares nothing with the services: it knows intervals of execution and what users wanted, no ledger,
no epochs, no states. Both kinds of lab feed it; so do the tests that kill real processes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One life of a guest, by its node's hypervisor. Times in seconds, one clock for all."""

    instance: str
    node: str
    started_s: float
    ended_s: float | None  # None: still executing


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Two lives of one guest at the same time: the one thing that must never be."""

    instance: str
    nodes: tuple[str, str]
    from_s: float
    until_s: float

    def __str__(self) -> str:
        first, second = self.nodes
        return (
            f"{self.instance} ran twice, on {first} and {second}, "
            f"from {self.from_s:.1f} s for {self.until_s - self.from_s:.1f} s"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What became of one instance."""

    instance: str
    node: str | None  # where it executes at the end
    starts: int
    downtime_s: float  # between its first start and the end, not executing anywhere
    overlap_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    histories: Mapping[str, History]
    overlaps: tuple[Overlap, ...]
    lost: tuple[str, ...]  # should execute at the end and do not

    @property
    def ran_twice(self) -> tuple[str, ...]:
        return tuple(sorted({overlap.instance for overlap in self.overlaps}))

    @property
    def violations(self) -> list[str]:
        return [
            *map(str, self.overlaps),
            *(f"{name} should run and runs nowhere" for name in self.lost),
        ]


def judge(
    executions: Iterable[Execution],
    *,
    should_run: Iterable[str],
    end_s: float,
    may_be_down: Collection[str] = (),
) -> Judgement:
    """Judge a whole run. An instance that should run and never started is lost, too.

    `may_be_down`: known to execute nowhere at the end, and why; they are not lost.
    """
    lives: dict[str, list[Execution]] = {name: [] for name in sorted(should_run)}
    wanted = set(lives) - set(may_be_down)
    for execution in executions:
        lives.setdefault(execution.instance, []).append(execution)
    overlaps: list[Overlap] = []
    histories: dict[str, History] = {}
    for name in sorted(lives):
        ordered = sorted(lives[name], key=lambda life: (life.started_s, life.node))
        found = _overlaps(ordered, end_s)
        overlaps += found
        alive = [life.node for life in ordered if life.ended_s is None]
        histories[name] = History(
            instance=name,
            node=alive[-1] if alive else None,
            starts=len(ordered),
            downtime_s=_downtime_s(ordered, end_s),
            overlap_s=sum(overlap.until_s - overlap.from_s for overlap in found),
        )
    lost = tuple(name for name in sorted(wanted) if histories[name].node is None)
    return Judgement(histories=histories, overlaps=tuple(overlaps), lost=lost)


def _overlaps(ordered: Sequence[Execution], end_s: float) -> list[Overlap]:
    found: list[Overlap] = []
    for index, earlier in enumerate(ordered):
        until = end_s if earlier.ended_s is None else earlier.ended_s
        for later in ordered[index + 1 :]:
            if later.started_s >= until:
                break
            later_end = end_s if later.ended_s is None else later.ended_s
            found.append(
                Overlap(
                    instance=earlier.instance,
                    nodes=(earlier.node, later.node),
                    from_s=later.started_s,
                    until_s=min(until, later_end),
                )
            )
    return found


def _downtime_s(ordered: Sequence[Execution], end_s: float) -> float:
    """Seconds after the first start during which nothing executed."""
    if not ordered:
        return end_s
    down_s, alive_until = 0.0, ordered[0].started_s
    for life in ordered:
        if life.started_s > alive_until:
            down_s += life.started_s - alive_until
        alive_until = max(alive_until, end_s if life.ended_s is None else life.ended_s)
    return down_s + max(0.0, end_s - alive_until)
