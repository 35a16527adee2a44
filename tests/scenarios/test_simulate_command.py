"""`evac-lab simulate`: files and directories, golden logs, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evac_lab.cli import app

TEXT = """\
name: restart
profile: fast
nodes:
  n1: {vcpus: 4, memory_mib: 4096, power: ipmi}
instances:
  web-1: {on: n1, vcpus: 1, memory_mib: 512}
timeline:
  - at 2 guest web-1 crash
  - at 5 evac instance show web-1
  - at 8 end
expect:
  - instance web-1 running on n1
  - event instance.exited of web-1 1
  - no violations
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "restart"
    folder.mkdir()
    (folder / "README.md").write_text("# Restart\n\nA guest crashes. It runs again. So it goes.\n")
    (folder / "scenario.yaml").write_text(TEXT)
    return folder


def _simulate(*words: str) -> Any:
    return CliRunner().invoke(app, ["simulate", *words])


@pytest.mark.slow
def test_a_directorys_log_is_compared_written_and_compared_again(directory: Path) -> None:
    first = _simulate(str(directory))
    assert first.exit_code == 1, first.output
    assert "+    2.0  lab        guest web-1 crash" in first.output

    assert _simulate(str(directory), "--update").exit_code == 0
    log = (directory / "log.expect").read_text(encoding="utf-8")
    assert "instance web-1: ended by itself on n1 (crashed)" in log
    assert "evac instance show web-1: done" in log
    assert log.splitlines()[-1].endswith("1 came back, 0 ran twice, 0 lost")

    assert _simulate(str(directory)).exit_code == 0


@pytest.mark.slow
def test_several_are_a_table_and_one_failure_fails_all(directory: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(TEXT.replace("exited of web-1 1", "exited of web-1 7"))

    result = _simulate(str(directory), str(wrong))

    assert result.exit_code == 1
    assert "event instance.exited of web-1 should come 7 times; it came once" in result.output
    assert "2 scenarios, 2 not as expected" in result.output


def test_json_is_one_object(tmp_path: Path) -> None:
    file = tmp_path / "restart.yaml"
    file.write_text(TEXT)

    result = CliRunner().invoke(app, ["simulate", str(file), "--json"])

    told = json.loads(result.stdout)
    assert result.exit_code == 0
    assert told["instances"]["web-1"]["restarts"] == 1
    assert told["instances"]["web-1"]["state"] == "running"
    assert told["violations"] == []
    assert any(event["name"] == "instance.exited" for event in told["events"])
    assert any("guest web-1 crash" in line for line in told["log"])


def test_a_wrong_file_ends_with_2_and_its_line(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(TEXT.replace("guest web-1", "guest web-9"))

    result = _simulate(str(file))

    assert result.exit_code == 2
    assert "wrong.yaml:8: timeline[0]: 'web-9' is not declared under instances" in result.output


def test_golden_logs_are_of_one_seed(directory: Path) -> None:
    assert _simulate(str(directory), "--update", "--seed", "7").exit_code == 2


def test_a_command_of_the_operator_that_fails_fails_the_run(tmp_path: Path) -> None:
    file = tmp_path / "failing.yaml"
    file.write_text(TEXT.replace("show web-1", "show web-2"))

    result = _simulate(str(file))

    assert result.exit_code == 1
    assert "`evac instance show web-2` ended with 1" in result.output

    file.write_text(TEXT.replace("evac instance show web-1", "evac? instance show web-2"))
    assert _simulate(str(file)).exit_code == 0
