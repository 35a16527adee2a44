"""How a rule is taken out of the product for the length of a run, and how that is counted.

The product knows nothing of it: functions and table entries are replaced where they live, with the
same signature, and put back at the end. A change counts (`bite`) each time it made a difference to
what the product would have done; a mutant that never bites tests nothing.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any


class PatchGone(AssertionError):
    """The product has no such function any more, or it is called differently."""


class Patching:
    """Replacements that are undone in reverse order."""

    def __init__(self) -> None:
        self.bites: Counter[str] = Counter()
        self.originals: list[Any] = []
        self._undo: list[Callable[[], None]] = []

    @property
    def changes(self) -> int:
        """How many functions and entries are replaced now."""
        return len(self._undo)

    def bite(self, what: str) -> None:
        """A run went the way that only the mutant goes."""
        self.bites[what] += 1

    def function(self, owner: Any, name: str, changed: Callable[..., Any]) -> None:
        """Replace a function of a module, or a method of a class.

        Raises PatchGone when `owner` itself has none of that name, or its parameters are others.
        """
        original = vars(owner).get(name)
        if original is None:
            raise PatchGone(f"{owner.__name__} has no {name}")
        plain = original.__func__ if isinstance(original, staticmethod | classmethod) else original
        if isinstance(plain, property):
            raise PatchGone(f"{owner.__name__}.{name} is a property")
        if parameters(plain) != parameters(changed):
            raise PatchGone(
                f"{owner.__name__}.{name} takes {parameters(plain)}, "
                f"its replacement {parameters(changed)}"
            )
        kept = type(original)(changed) if isinstance(original, staticmethod) else changed
        setattr(owner, name, kept)
        self.originals.append(original)
        self._undo.append(lambda: setattr(owner, name, original))

    def entry(self, table: Mapping[Any, Any], key: Any, changed: Any) -> None:
        """Replace an entry of a table. Raises PatchGone when there is none."""
        if not isinstance(table, dict) or key not in table:
            raise PatchGone(f"the table has no entry {key}")
        original = table[key]
        table[key] = changed
        self.originals.append(original)
        self._undo.append(lambda: table.__setitem__(key, original))

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


def parameters(function: Callable[..., Any]) -> list[tuple[str, str]]:
    """Name and kind of each parameter: what a caller can see."""
    signature = inspect.signature(function)
    return [(each.name, each.kind.name) for each in signature.parameters.values()]
