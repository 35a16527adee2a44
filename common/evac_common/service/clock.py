"""Time and chance, injected: the simulator gives services a virtual clock and seeded ids.

Durations are measured with `monotonic` only. `now` is the wall clock: for people, deadlines and
rows.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds on a clock that never jumps; the running loop's."""

    def now(self) -> datetime:
        """Wall clock, UTC."""

    def new_id(self) -> str:
        """32 hex digits, unique."""

    def jitter(self) -> float:
        """A number in [0, 1)."""


class SystemClock:
    """The real one."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def new_id(self) -> str:
        return uuid.uuid4().hex

    def jitter(self) -> float:
        return random.random()
