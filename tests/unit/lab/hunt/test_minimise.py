"""The minimiser keeps what a failure needs, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evac_lab.golden import golden
from evac_lab.hunt.live import Failure, Lived
from evac_lab.hunt.minimise import Minimiser, fewest, write
from evac_lab.hunt.plan import Size, plan
from evac_lab.hunt.written import Plan, scenario_of
from evac_lab.scenario.reading import Scenario

TWICE = Failure(kind="S1", at_s=900.0, sentence="vm-3 runs twice")
LOST = Failure(kind="L1", at_s=3600.0, sentence="vm-3 runs nowhere")


def _minimiser(fails: Callable[[Scenario], tuple[Failure, ...]], limit_s: float = 60) -> Minimiser:
    return Minimiser(
        seed=1,
        kind="S1",
        until_s=time.monotonic() + limit_s,
        run=lambda scenario, _seed: Lived(failures=fails(scenario)),
    )


def test_the_fewest_of_many_that_still_fail_are_found() -> None:
    tried = 0

    def fails(some: object) -> bool:
        nonlocal tried
        tried += 1
        return isinstance(some, list) and {3, 77, 78} <= set(some)

    assert list(fewest(list(range(100)), fails)) == [3, 77, 78]
    assert tried < 200


def test_if_nothing_is_needed_nothing_is_left() -> None:
    assert list(fewest([1, 2, 3], lambda _some: True)) == []


def _planned() -> Plan:
    return plan(3, Size(nodes=6, instances=10, hours=1))


def _first(document: Plan, begins: str) -> str:
    lines: list[str] = document["timeline"]
    return next(line.partition(" ")[2] for line in lines if begins in line)


def test_lines_instances_nodes_and_time_are_cut_down_to_what_the_failure_needs() -> None:
    document = _planned()
    needed = _first(document, " power n")

    def fails(scenario: Scenario) -> tuple[Failure, ...]:
        said = [f"{step.at_s:g} {step.text}" for step in scenario.steps]
        return (TWICE,) if needed in said and "vm-3" in scenario.document.instances else ()

    small = _minimiser(fails).small(document)

    assert list(small["instances"]) == ["vm-3"]
    assert len(small["nodes"]) == 2
    assert [line for line in small["timeline"] if needed in line]
    assert len(small["timeline"]) <= 3  # it, its end, and `end`
    assert scenario_of(small).end_s < 1000


@pytest.mark.slow
def test_another_failure_is_not_taken_for_it() -> None:
    document = _planned()

    def fails(scenario: Scenario) -> tuple[Failure, ...]:
        return (TWICE, LOST) if len(scenario.steps) == len(document["timeline"]) else (LOST,)

    small = _minimiser(fails).small(document)

    assert small["timeline"] == document["timeline"]


def test_no_cut_leaves_a_fault_without_its_end_or_makes_the_operator_lie() -> None:
    document = _planned()
    shown: list[Scenario] = []

    def fails(scenario: Scenario) -> tuple[Failure, ...]:
        shown.append(scenario)
        return (TWICE,)

    minimiser = _minimiser(fails)
    assert minimiser.fails(document)
    without_ends = [line for line in document["timeline"] if not line.endswith(" on")]

    assert not minimiser.fails({**document, "timeline": without_ends})
    assert len(shown) == 1


def test_when_the_time_is_over_what_was_found_stands() -> None:
    document = _planned()

    small = _minimiser(lambda _scenario: (TWICE,), limit_s=-1).small(document)

    assert small["timeline"] == document["timeline"]


def test_what_is_written_is_a_scenario_directory_that_names_its_seed(tmp_path: Path) -> None:
    directory = tmp_path / "hunt-3-s1"

    write(_planned(), directory, seed=3, failure=TWICE, lived=Lived(failures=(TWICE,)))

    read = golden(directory)
    assert read.scenario.document.seed == 3
    assert TWICE.sentence in (directory / "README.md").read_text(encoding="utf-8")
