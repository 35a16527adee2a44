"""A time line in the making: its lines, and what is busy when."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

Item = TypeVar("Item")

MARGIN_S: Final = 1.0  # between two faults of one thing


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    begin_s: float
    end_s: float

    def touches(self, other: Span) -> bool:
        return self.begin_s < other.end_s and other.begin_s < self.end_s


class Draw:
    """Drawn values; the same seed draws the same."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def chance(self, of: float) -> bool:
        return self._random.random() < of

    def between(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def scale(self, low: float, high: float) -> float:
        """Between two values of different sizes: 1 to 10 as likely as 10 to 100."""
        return math.exp(self._random.uniform(math.log(low), math.log(high)))

    def whole(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def pause(self, mean_s: float) -> float:
        """Until the next of many independent things."""
        return self._random.expovariate(1.0 / mean_s)

    def one(self, items: Sequence[Item]) -> Item:
        return items[self._random.randrange(len(items))]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        return self._random.sample(list(items), min(count, len(items)))

    def weighted(self, items: Sequence[Item], weights: Sequence[float]) -> Item:
        return self._random.choices(items, weights)[0]


class Weave:
    """Lines of a time line, and which things are busy in which spans.

    Two faults of one thing never touch, so each `off` meets its own `on`. Nothing is said after
    `until_s`, where the calm begins.
    """

    def __init__(self, draw: Draw, *, until_s: float) -> None:
        self.draw = draw
        self.until_s = until_s
        self._lines: list[tuple[float, int, str]] = []
        self._busy: dict[str, list[Span]] = {}
        self._down: list[Span] = []

    def say(self, at_s: float, text: str) -> None:
        self._lines.append((round(at_s, 1), len(self._lines), text))

    def lines(self) -> Iterator[tuple[float, str]]:
        """In the order of time; at one moment in the order in which they were said."""
        return ((at_s, text) for at_s, _, text in sorted(self._lines))

    def span(self, begin_s: float, lasts_s: float) -> Span | None:
        """From a moment on, if it ends before the calm and does not begin before second 1."""
        if begin_s < 1.0 or begin_s + lasts_s > self.until_s:
            return None
        return Span(begin_s=begin_s, end_s=begin_s + lasts_s)

    def free(self, what: str, span: Span) -> bool:
        return not any(span.touches(other) for other in self._busy.get(what, ()))

    def book(self, what: str, span: Span) -> None:
        wide = Span(begin_s=span.begin_s - MARGIN_S, end_s=span.end_s + MARGIN_S)
        self._busy.setdefault(what, []).append(wide)

    def take(self, what: str, span: Span) -> bool:
        """Book it if it is free."""
        if not self.free(what, span):
            return False
        self.book(what, span)
        return True

    def down(self, span: Span) -> int:
        """How many nodes are away at some time of a span."""
        return sum(span.touches(other) for other in self._down)

    def goes_down(self, span: Span) -> None:
        self._down.append(span)
