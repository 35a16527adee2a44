"""When a disarm is spoken of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evac_monitor.core import disarm

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("until_s", "said_s", "say"),
    [
        (None, None, False),
        (600, None, True),
        (600, -299, False),
        (600, -300, True),
        (600, 3600, True),  # our wall clock was set back since
        (0, -1, True),  # it ends
    ],
)
def test_a_disarm_is_mentioned_now_and_then_and_when_it_ends(
    until_s: float | None, said_s: float | None, say: bool
) -> None:
    until, said_at = (
        None if each is None else NOW + timedelta(seconds=each) for each in (until_s, said_s)
    )

    assert disarm.must_say(until, said_at, NOW, 300) is say
