"""A disarm is an exception that must not be forgotten."""

from __future__ import annotations

from datetime import datetime


def must_say(
    until: datetime | None, said_at: datetime | None, now: datetime, every_s: float
) -> bool:
    """Whether a disarm must be spoken of now: it has ended, or was not mentioned for long."""
    if until is None:
        return False
    # A wall clock that went back must not silence it: a mention in the future is none.
    lately = said_at is not None and 0 <= (now - said_at).total_seconds() < every_s
    return until <= now or not lately
