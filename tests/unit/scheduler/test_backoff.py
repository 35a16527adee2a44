"""Pauses end, also when the wall clock that they were written by was set back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evac_scheduler.core import backoff, evacuation

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("in_s", "due"),
    [(None, True), (-1, True), (0, True), (1, False), (60, False), (61, True), (660, True)],
)
def test_a_pause_is_over_at_its_time_or_when_it_is_longer_than_any(
    in_s: float | None, due: bool
) -> None:
    at = None if in_s is None else NOW + timedelta(seconds=in_s)

    assert backoff.due(at, NOW, longest_s=60.0) is due


def test_pauses_grow_and_are_bounded() -> None:
    assert [backoff.doubling_s(n, min_s=2, max_s=60) for n in (1, 2, 5, 6, 10**9)] == [
        *(2, 4, 32),
        *(60, 60),
    ]
    assert [backoff.restart_s(n, step_s=10, max_s=300) for n in (0, 1, 2, 6)] == [0, 10, 40, 300]


def test_what_took_less_than_nothing_by_two_clocks_took_no_time() -> None:
    assert evacuation.took_s(NOW, NOW + timedelta(seconds=2.5)) == 2.5
    assert evacuation.took_s(NOW, NOW - timedelta(seconds=7200)) == 0.0
