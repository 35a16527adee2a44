"""The scenarios that people are given, on virtual time: what they expect is what happens.

On a machine with the real parts, tests/real runs some of the same files on libvirt hosts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from evac_lab.runner import Outcome
from evac_lab.scenario.reading import Scenario, from_text, read
from evac_lab.simulated.run import Doubles, simulate

ROOT: Final = Path(__file__).parents[2]
SHIPPED: Final = (ROOT / "lab/evac_lab/scenarios").glob("*.yaml")
FILES: Final = sorted(file for file in SHIPPED if file.stem != "demo")  # test_demo.py runs that
TUTORIAL: Final = ROOT / "docs/tutorial/first-evacuation.md"


def _simulated(scenario: Scenario) -> Outcome:
    return simulate(
        scenario,
        seed=1,
        on_line=print,
        on_picture=None,
        progress=lambda _text: None,
        doubles=Doubles(),
    )


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_shipped_scenario_ends_as_it_says(file: Path) -> None:
    outcome = _simulated(read(file))

    assert (outcome.failed, outcome.judgement.violations) == ([], [])
    assert outcome.passed


def _of_the_tutorial() -> str:
    found = re.search(r"```yaml\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)
    assert found, "the tutorial shows a scenario"
    return found[1]


def test_the_tutorials_scenario_passes() -> None:
    assert _simulated(from_text(_of_the_tutorial(), "mine.yaml")).passed


def test_the_tutorials_node_without_a_bmc_ends_blocked_and_nothing_runs_twice() -> None:
    text = _of_the_tutorial().replace("power n1 off", "network n3 off").replace("on: n1", "on: n3")

    outcome = _simulated(from_text(text, "mine.yaml"))

    assert not outcome.passed
    assert outcome.judgement.violations == []
    assert [failure for failure in outcome.failed if "web-1" in failure]
