"""When rows that were read a moment ago are read again."""

from __future__ import annotations

import pytest

from evac_monitor.core.remembering import View, why_read

BELIEVED_S = 2.0


@pytest.mark.parametrize(
    ("view", "why"),
    [
        (View(age_s=None), "nothing is remembered"),
        (View(age_s=1.9), ""),
        (View(age_s=2.0), "the rows are too old"),
        (View(age_s=0.0, doomed=True), "a node is being cut off, or cannot be"),
        (View(age_s=0.0, all_silent=True), "all nodes fell silent at once"),
        (View(age_s=0.0, suspect=True), "a node is suspect"),
        (View(age_s=0.0, due=True), "a node's state is about to change"),
        (View(age_s=None, doomed=True, due=True), "nothing is remembered"),
    ],
)
def test_rows_are_read_again_for_a_cause(view: View, why: str) -> None:
    assert why_read(view, BELIEVED_S) == why


def test_a_time_of_none_believes_no_rows() -> None:
    assert why_read(View(age_s=0.0), 0.0) == "the rows are too old"
