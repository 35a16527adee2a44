"""Virtual time and seeded ids for the services under simulation."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final

from evac_lab.simulated.loop import SeededLoop

START: Final = datetime(2026, 1, 1, tzinfo=UTC)  # any fixed moment: runs must not depend on today


class VirtualClock:
    """One per process. Ids follow from seed, process and count, not from the order of events."""

    def __init__(self, loop: SeededLoop, *, seed: int, process: str) -> None:
        self._loop = loop
        self._stem = f"{seed}/{process}".encode()
        self._count = 0

    def monotonic(self) -> float:
        return self._loop.time()

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.time())

    def new_id(self) -> str:
        self._count += 1
        return hashlib.blake2b(self._stem + b"#%d" % self._count, digest_size=16).hexdigest()

    def jitter(self) -> float:
        return self._loop.random.random()
