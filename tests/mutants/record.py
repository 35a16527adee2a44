"""What the last full search found: checked in, so that the quick test knows where to begin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from tests.mutants.hunting import Run
from tests.mutants.search import Job, Search

FILE: Final = Path(__file__).with_name("record.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """`virtual_s`: what was lived through, over all seeds up to this one."""

    seed: int
    seeds: int
    invariant: str
    sentence: str
    virtual_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """The rule removed while its further defences stay. `bites`: how often they had to hold."""

    seeds: int
    bites: int
    broken: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The unchanged product on the seed that found the mutant."""

    virtual_s: float
    broken: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """By mutant."""

    hits: Mapping[str, Hit] = field(default_factory=dict)
    alone: Mapping[str, Alone] = field(default_factory=dict)
    controls: Mapping[str, Control] = field(default_factory=dict)


def load() -> Record:
    """The checked-in record; an empty one before the first search."""
    if not FILE.exists():
        return Record()
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    return Record(
        hits={name: Hit(**hit) for name, hit in stored["hits"].items()},
        alone={name: Alone(**alone) for name, alone in stored["alone"].items()},
        controls={name: Control(**control) for name, control in stored["controls"].items()},
    )


def save(record: Record) -> None:
    FILE.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")


def record_of(searches: Sequence[Search], compared: Mapping[Job, Run], before: Record) -> Record:
    """The searches' results in place of what was recorded of these mutants before."""
    now = Record(hits=dict(before.hits), alone=dict(before.alone), controls=dict(before.controls))
    for each in searches:
        runs = [(job.what, run) for job, run in compared.items() if job.name == each.mutant.name]
        for table, value in (
            (now.hits, _hit(each)),
            (now.alone, _alone([run for what, run in runs if what == "alone"])),
            (now.controls, _control([run for what, run in runs if what == "control"])),
        ):
            assert isinstance(table, dict), "made above"
            table.pop(each.mutant.name, None)
            if value is not None:
                table[each.mutant.name] = value
    return now


def _hit(search: Search) -> Hit | None:
    hit = search.hit
    if hit is None or hit.found is None:
        return None
    return Hit(
        seed=hit.seed,
        seeds=len(search.tried()),
        invariant=hit.found.invariant,
        sentence=hit.found.sentence,
        virtual_s=round(sum(run.virtual_s for run in search.tried()), 1),
    )


def _alone(runs: Sequence[Run]) -> Alone | None:
    if not runs:
        return None
    return Alone(
        seeds=len(runs),
        bites=sum(sum(run.bites.values()) for run in runs),
        broken=_broken(runs),
    )


def _control(runs: Sequence[Run]) -> Control | None:
    if not runs:
        return None
    virtual_s = round(sum(run.virtual_s for run in runs), 1)
    return Control(virtual_s=virtual_s, broken=_broken(runs))


def _broken(runs: Sequence[Run]) -> list[str]:
    return [
        f"seed {run.seed}: {run.found or run.failed}" for run in runs if run.found or run.failed
    ]
