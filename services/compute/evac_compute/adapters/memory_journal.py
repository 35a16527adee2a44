"""A journal on storage that lives as long as the object: the simulated node's disk.

It survives the daemon (give the next daemon the same object), keeps the same promises as the file,
and can be told to fail.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from evac_compute.core.record import Change, Recorded
from evac_compute.ports import JournalUnavailable


class MemoryJournal:
    def __init__(self) -> None:
        self._recorded = Recorded()
        self.full = False  # True: the disk takes nothing more
        self.writes = 0

    def load(self) -> Recorded:
        return copy.deepcopy(self._recorded)

    def write(self, changes: Sequence[Change]) -> None:
        if self.full:
            raise JournalUnavailable("no space left on the simulated disk")
        after = copy.copy(self._recorded)
        after.tombs, after.runs = dict(after.tombs), dict(after.runs)
        after.pending, after.unsent = dict(after.pending), dict(after.unsent)
        for change in changes:
            after.apply(change)
        self._recorded = after
        self.writes += 1

    def copy(self) -> MemoryJournal:
        """What a backup of this disk would give back."""
        copied = MemoryJournal()
        copied._recorded = self.load()
        return copied

    def close(self) -> None:
        pass
