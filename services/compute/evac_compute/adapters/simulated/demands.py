"""What is to go wrong with the next starts of single guests, on whichever node they happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

REFUSE_START: Final = "refuse-start"
DIE_EARLY: Final = "die-early"


class GuestDemands:
    """By guest name; shared by all hypervisors of a cluster. `on_met` is told of each one met."""

    def __init__(self, on_met: Callable[[str], None] = lambda _kind: None) -> None:
        self._on_met = on_met
        self._left: dict[tuple[str, str], int] = {}

    def add(self, kind: str, name: str, times: int) -> None:
        self._left[kind, name] = self._left.get((kind, name), 0) + times

    def meets(self, kind: str, name: str) -> bool:
        """Whether this start is one of them; counts it."""
        left = self._left.get((kind, name), 0)
        if left == 0:
            return False
        self._left[kind, name] = left - 1
        self._on_met(kind)
        return True
