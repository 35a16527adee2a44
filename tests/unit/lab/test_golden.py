"""Golden logs: the order of lines, the difference, and what a directory must hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evac_common.cli.document import DocumentInvalid
from evac_lab.golden import Golden, golden, in_order, log_of
from evac_lab.judge import Execution, judge
from evac_lab.narrate import Line, narrate
from evac_lab.runner import Outcome

SCENARIO = """\
name: calm
nodes: {n1: {vcpus: 1, memory_mib: 64}}
timeline: [at 1 end]
"""


def _line(at_s: float, name: str, **body: object) -> Line:
    line = narrate(name, body, at_s)
    assert line is not None
    return line


def _outcome(*lines: Line) -> Outcome:
    lives = [
        Execution(instance="web-1", node="n1", started_s=-5, ended_s=10),
        Execution(instance="web-1", node="n2", started_s=12, ended_s=None),
    ]
    return Outcome(
        judgement=judge(lives, should_run=["web-1"], end_s=20),
        failed=[],
        lines=lines,
        nodes={},
        instances={},
        events=[],
        moved=["web-1"],
        executions=lives,
        zero=datetime(2026, 2, 28, tzinfo=UTC),
        end_s=20.0,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "calm"
    folder.mkdir()
    (folder / "README.md").write_text("# Calm\n\nNothing happens. It stays so. Why not.\n")
    (folder / "scenario.yaml").write_text(SCENARIO)
    return folder


def test_lines_of_one_moment_stand_in_the_order_of_cause_and_effect() -> None:
    done = _line(10.0001, "evacuation.done", node="n1", took_s=1.0)
    second = _line(10.0002, "instance.placed", instance="web-2", node="n2", epoch=2)
    first = _line(10.0003, "instance.placed", instance="web-1", node="n2", epoch=2)
    down = _line(10.0004, "node.down", node="n1", proof="power", evidence="off")
    act = Line(at_s=10.0, who="lab", what="power n1 off")
    later = _line(10.5, "node.up", node="n1")

    assert in_order([later, done, second, first, down, act]) == [
        act, down, first, second, done, later,
    ]  # fmt: skip


def test_the_log_ends_with_how_it_ended() -> None:
    outcome = _outcome(Line(at_s=10.0, who="lab", what="power n1 off"))

    assert log_of(outcome).splitlines() == [
        "   10.0  lab        power n1 off",
        "   20.0  judge      1 came back, 0 ran twice, 0 lost",
    ]


def test_the_log_says_what_does_not_run_at_the_end_and_what_evac_says_of_it() -> None:
    lives = [Execution(instance="web-1", node="n1", started_s=-5, ended_s=10)]
    outcome = replace(
        _outcome(),
        judgement=judge(lives, should_run=["web-1"], end_s=20, may_be_down=["web-1"]),
        instances={"web-1": {"status": "pending: local_storage: n1 alone has it"}},
        moved=[],
    )

    assert log_of(outcome).splitlines() == [
        (
            "   20.0  judge      instance web-1: does not run                  "
            "pending: local_storage: n1 alone has it"
        ),
        "   20.0  judge      0 came back, 0 ran twice, 0 lost",
    ]


def test_a_run_that_tells_something_else_is_a_difference_until_it_is_written(
    directory: Path,
) -> None:
    expected = golden(directory)
    told = _outcome(Line(at_s=10.0, who="lab", what="power n1 off"))
    other = replace(told, lines=[Line(at_s=10.0, who="lab", what="power n2 off")])

    assert expected.difference(told)
    expected.update(told)
    assert expected.difference(told) == []
    difference = expected.difference(other)
    assert "-   10.0  lab        power n1 off" in difference
    assert "+   10.0  lab        power n2 off" in difference


@pytest.mark.parametrize("name", ["README.md", "scenario.yaml"])
def test_a_directory_without_its_files_is_refused(directory: Path, name: str) -> None:
    assert isinstance(golden(directory), Golden)

    (directory / name).unlink()
    with pytest.raises(DocumentInvalid, match=f"{name} is missing"):
        golden(directory)


def test_a_scenario_bears_the_name_of_its_directory(directory: Path) -> None:
    (directory / "scenario.yaml").write_text(SCENARIO.replace("calm", "storm"))

    with pytest.raises(DocumentInvalid, match=r"must be the directory's, 'calm' \(got 'storm'\)"):
        golden(directory)
