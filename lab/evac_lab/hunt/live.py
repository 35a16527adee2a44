"""Live through a scenario on virtual time with the oracle watching."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from evac_lab.hunt.honest import well_since_s
from evac_lab.narrate import Line
from evac_lab.oracle import Oracle, Statistics, Timings
from evac_lab.runner import LabFailed, Outcome
from evac_lab.scenario.reading import Scenario
from evac_lab.simulated.clock import START
from evac_lab.simulated.cluster import DATABASE_FILE, SimulatedCluster
from evac_lab.simulated.loop import LoopStuck, SeededLoop
from evac_lab.simulated.run import Doubles, simulate

CALM_S: Final = 600.0  # after so long without a fault everything must be as wanted
STEPS_PER_S: Final = 1000  # of virtual time; a calm cluster takes about twenty
STEPS_LEAST: Final = 1_000_000

# Kinds of failures that are no invariants of the oracle.
JUDGE: Final = "judge"  # what the hypervisors did
SERVICE: Final = "service"  # a service ended by an error of its own
EXPECT: Final = "expect"
LAB: Final = "lab"  # the cluster did not come up, the api did not answer at the end
STUCK: Final = "stuck"
CRASH: Final = "crash"  # of the simulator


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One thing that must not be. `kind`: an invariant (S1 ... L6) or one of the words above."""

    kind: str
    at_s: float
    sentence: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.at_s:.1f} s: {self.sentence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lived:
    """One run. Times in virtual seconds but for `took_s`."""

    failures: Sequence[Failure]
    lasted_s: float = 0.0
    faults: Mapping[tuple[str, str], int] = field(default_factory=dict)
    evacuations: int = 0
    starts: int = 0
    restart_times_s: Sequence[float] = ()
    digest: str = ""  # of every step of the loop
    steps: int = 0
    lines: Sequence[Line] = ()

    @property
    def fingerprint(self) -> str:
        """Of every step of the loop and of everything that was seen: equal runs have equal ones."""
        seen = [self.digest, *map(str, self.lines), *map(str, self.failures)]
        seen += [f"{cell} {count}" for cell, count in sorted(self.faults.items())]
        return hashlib.blake2b("\n".join(seen).encode(), digest_size=16).hexdigest()


class _Watched:
    """What the end of a run leaves behind."""

    def __init__(self) -> None:
        self.statistics: Statistics | None = None
        self.digest = ""
        self.steps = 0


def live(scenario: Scenario, *, seed: int) -> Lived:
    """Live through it once. Never raises for what evac, the lab or the simulator does wrong."""
    with tempfile.TemporaryDirectory(prefix="evac-hunt-") as place:
        directory = Path(place)
        document = scenario.document
        oracle = Oracle(
            directory / DATABASE_FILE,
            timings=Timings.of(document.profile, document.settings),
        )
        seen = _Watched()
        well_s = well_since_s(scenario.steps)
        calm = well_s is not None and scenario.end_s - well_s >= CALM_S

        async def epilogue(_cluster: SimulatedCluster) -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, SeededLoop), "a simulation runs on a seeded loop"
            seen.digest, seen.steps = loop.digest(), loop.steps
            seen.statistics = oracle.finish(loop.true_time, calm=calm)

        outcome: Outcome | None = None
        ended: list[Failure] = []
        try:
            outcome = simulate(
                scenario,
                seed=seed,
                on_line=lambda _line: None,
                on_picture=None,
                progress=lambda _text: None,
                doubles=Doubles(),
                witness=oracle,
                epilogue=epilogue,
                directory=directory,
                steps_max=STEPS_LEAST + int(STEPS_PER_S * scenario.end_s),
            )
        except LabFailed as error:
            ended.append(Failure(kind=LAB, at_s=0.0, sentence=error.message))
        except LoopStuck as error:
            ended.append(Failure(kind=STUCK, at_s=0.0, sentence=str(error)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the hunt tells it and goes on
            ended.append(Failure(kind=CRASH, at_s=0.0, sentence=_shown(error)))
        finally:
            oracle.close()
        return _lived(oracle, seen, outcome, ended)


def _lived(
    oracle: Oracle, seen: _Watched, outcome: Outcome | None, ended: Sequence[Failure]
) -> Lived:
    # The oracle counts from the simulation's start, a reader from second 0 of the time line.
    ahead_s = (outcome.zero - START).total_seconds() if outcome is not None else 0.0
    failures = [
        Failure(kind=each.invariant, at_s=each.at_s - ahead_s, sentence=each.sentence)
        for each in oracle.violations
    ]
    failures += _of_outcome(outcome) if outcome is not None else []
    statistics = seen.statistics
    return Lived(
        failures=(*failures, *ended),
        lasted_s=statistics.lasted_s if statistics else 0.0,
        faults=statistics.faults if statistics else {},
        evacuations=statistics.evacuations_done if statistics else 0,
        starts=statistics.starts if statistics else 0,
        restart_times_s=statistics.restart_times_s if statistics else (),
        digest=seen.digest,
        steps=seen.steps,
        lines=outcome.lines if outcome is not None else (),
    )


def _of_outcome(outcome: Outcome) -> list[Failure]:
    """What runs nowhere at the end is L1's to say: it knows what evac leaves to a person."""
    judged = set(outcome.judgement.violations)
    found = [
        Failure(kind=JUDGE, at_s=outcome.end_s, sentence=str(overlap))
        for overlap in outcome.judgement.overlaps
    ]
    for sentence in outcome.failed:
        if sentence not in judged:
            kind = SERVICE if sentence.startswith("a service failed") else EXPECT
            found.append(Failure(kind=kind, at_s=outcome.end_s, sentence=sentence))
    return found


def _shown(error: BaseException) -> str:
    """Its type, its words, and the innermost place in the code."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno})" if place else ""
    return f"{error!r}{where}"
