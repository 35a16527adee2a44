"""Every directory beside this file: its expectations hold, the oracle finds nothing, its log is
the golden one.

    pytest tests/scenarios -k power-cut
    evac-lab simulate tests/scenarios/power-cut            # the same, to look at
    evac-lab simulate --update tests/scenarios/power-cut   # and read what changed

`make check` runs QUICK of them, `make test` all.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from evac_lab.golden import README, SCENARIO, golden
from evac_lab.scenario.expect import NoViolations
from evac_lab.watched import simulate_watched

HERE: Final = Path(__file__).parent
DIRECTORIES: Final = sorted(path.parent for path in HERE.glob(f"*/{SCENARIO}"))
# One of each kind of situation, the short ones.
QUICK: Final = frozenset(
    {
        "confirm-down-of-an-up-node",
        "fence-from-up",
        "guest-crashes",
        "network-cut",
        "planned-daemon-restart",
        "reboot-while-suspect",
    }
)
NAMES: Final = [
    pytest.param(path.name, marks=() if path.name in QUICK else pytest.mark.slow)
    for path in DIRECTORIES
]


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_ends_as_it_says_and_its_log_is_the_golden_one(name: str) -> None:
    expected = golden(HERE / name)

    outcome = simulate_watched(expected.scenario, seed=1, on_line=print, on_picture=None)

    assert [*outcome.judgement.violations, *outcome.failed] == []
    assert "\n".join(expected.difference(outcome)) == ""


def test_there_are_sixty_named_situations_and_the_quick_ones_are_among_them() -> None:
    names = {path.name for path in DIRECTORIES}

    assert len(names) >= 60
    assert names >= QUICK


@pytest.mark.parametrize("name", [path.name for path in DIRECTORIES])
def test_a_scenario_is_told_in_three_sentences_and_expects_no_violations(name: str) -> None:
    title, text = (HERE / name / README).read_text(encoding="utf-8").split("\n\n", 1)
    sentences = re.findall(r"[^.!?]+[.!?](?:\s|$)", text.replace("\n", " "))

    assert title.startswith("# ")
    assert len(sentences) == 3, sentences
    assert NoViolations() in golden(HERE / name).scenario.expectations
