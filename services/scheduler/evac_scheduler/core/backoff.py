"""How long to wait before trying again."""

from __future__ import annotations

from datetime import datetime, timedelta


def due(at: datetime | None, now: datetime, *, longest_s: float) -> bool:
    """Whether a pause is over. `longest_s`: no pause is longer.

    A moment further ahead was written before our wall clock was set back, or by a clock that was
    wrong: it is not waited for.
    """
    return at is None or at <= now or at > now + timedelta(seconds=longest_s)


def doubling_s(attempt: int, *, min_s: float, max_s: float) -> float:
    """Before try `attempt` + 1: min, 2 min, 4 min ... up to max. `attempt` counts from 1."""
    # The exponent is bounded: a count of years of failures must not become a huge integer.
    return float(min(max_s, min_s * 2 ** min(max(attempt, 1) - 1, 32)))


def restart_s(failures: int, *, step_s: float, max_s: float) -> float:
    """Before a guest that ended is started in place: at once, then step x n^2, up to max."""
    return float(min(max_s, step_s * max(failures, 0) ** 2))
