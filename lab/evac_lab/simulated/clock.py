"""Virtual time and seeded ids for the services under simulation."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final

from evac_lab.simulated.loop import SeededLoop

START: Final = datetime(2026, 1, 1, tzinfo=UTC)  # any fixed moment: runs must not depend on today


class Walls:
    """How far each process's wall clock was set away from the others', in seconds."""

    def __init__(self) -> None:
        self._offsets: dict[str, float] = {}

    def jump(self, process: str, seconds: float) -> None:
        self._offsets[process] = self.offset_s(process) + seconds

    def offset_s(self, process: str) -> float:
        return self._offsets.get(process, 0.0)


class VirtualClock:
    """One per life of a process. Ids follow from seed, process, life and count, not from the order
    of events. `walls`: whose wall clock it is, when it may be set.
    """

    def __init__(
        self,
        loop: SeededLoop,
        *,
        seed: int,
        process: str,
        life: int = 0,
        walls: Walls | None = None,
    ) -> None:
        self._loop = loop
        self._owner = process.partition("/")[0]  # `monitor-1/store` is a part of monitor-1
        self._stem = f"{seed}/{process}#{life}".encode()
        self._count = 0
        self._walls = walls or Walls()

    def monotonic(self) -> float:
        return self._loop.time()

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.time() + self._walls.offset_s(self._owner))

    def new_id(self) -> str:
        self._count += 1
        return hashlib.blake2b(self._stem + b"#%d" % self._count, digest_size=16).hexdigest()

    def jitter(self) -> float:
        return self._loop.random.random()
