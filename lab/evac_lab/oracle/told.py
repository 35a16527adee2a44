"""Violations as they are found: each once, and no more than a person can read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from evac_lab.oracle.ports import Violation

VIOLATIONS_MAX: Final = 100


@dataclass(slots=True, kw_only=True)
class Verdicts:
    found: list[Violation] = field(default_factory=list)
    _said: set[tuple[str, str | None, str | None]] = field(default_factory=set)

    def say(
        self,
        invariant: str,
        at_s: float,
        sentence: str,
        *,
        node: str | None = None,
        instance: str | None = None,
    ) -> None:
        """The first of each kind about each node and instance counts; what follows is its echo."""
        key = (invariant, node, instance)
        if key in self._said or len(self.found) >= VIOLATIONS_MAX:
            return
        self._said.add(key)
        self.found.append(
            Violation(
                invariant=invariant, at_s=at_s, node=node, instance=instance, sentence=sentence
            )
        )
