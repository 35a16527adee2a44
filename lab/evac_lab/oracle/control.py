"""The control plane as its processes and faults show it: who works, since when, undisturbed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

CONTROL_PLANE: Final = frozenset("ASMBD")
NOISE: Final = frozenset({"lose", "duplicate", "delay", "reorder"})  # of the bus: touches nodes too
PEERS: Final = ("broker", "database")
#: What lasts until it is told to be over.
LASTING: Final = frozenset(
    [("B", "off"), ("B", "alarm"), ("D", "off"), ("D", "slow"), ("D", "readonly")]
)
_ANSWERS_WITHIN_S: Final = 10.0  # a database that works is written to within this by a monitor
_LETTERS: Final = {"api": "A", "scheduler": "S", "monitor": "M"}
_GONE: Final = frozenset({"killed", "hung", "stopped", "failed"})


@dataclass(slots=True, kw_only=True)
class Control:
    """`up`: process → since when it runs; a hung one does not."""

    up: dict[str, float] = field(default_factory=dict)
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    cut: set[tuple[str, str]] = field(default_factory=set)  # endpoint and peer
    whole_s: dict[tuple[str, str], float] = field(default_factory=dict)  # since when again
    ill: set[str] = field(default_factory=set)  # letters: broker or database, until it is well
    disturbed: dict[str, float] = field(default_factory=dict)  # letter → its last fault or end
    node_touched: bool = False  # a fault that may silence a node, ever
    jumped_s: float = float("-inf")  # when a monitor's wall clock was last set
    unseen_jump_s: float = float("-inf")  # the same, if some monitor has started since
    fault_s: float = float("-inf")  # the last of any kind
    commit_s: float = float("-inf")
    publish_s: float = float("-inf")

    def fault(self, component: str, kind: str, at_s: float) -> None:
        self.faults[component, kind] += 1
        self.fault_s = at_s
        noise = component == "B" and kind in NOISE
        if not noise:
            self.disturbed[component] = at_s
        if (component, kind) in LASTING:
            self.ill.add(component)
        if (component, kind) == ("M", "jump"):
            self.jumped_s = at_s
        if component not in CONTROL_PLANE or noise:
            self.node_touched = True

    def process(self, name: str, what: str, at_s: float) -> None:
        if what in _GONE:
            self.up.pop(name, None)
            service = service_of(name)
            if service in _LETTERS:
                self.disturbed[_LETTERS[service]] = at_s
            else:
                self.node_touched = True
        elif what in ("started", "resumed"):
            self.up[name] = at_s
            if what == "started" and service_of(name) == "monitor":
                self.unseen_jump_s = self.jumped_s

    def reach(self, endpoint: str, peer: str, whole: bool, at_s: float) -> None:
        way = endpoint, peer
        if not whole:
            self.cut.add(way)
        elif way in self.cut:
            self.cut.remove(way)
            self.whole_s[way] = at_s

    def works_since(self, service: str, needs: Sequence[str] = PEERS) -> float | None:
        """Since when some replica of it runs and reaches what it needs; None: none does."""
        found = (self.well_since(name, needs) for name in self.up if service_of(name) == service)
        return min((since for since in found if since is not None), default=None)

    def well_since(self, process: str, needs: Sequence[str] = PEERS) -> float | None:
        """Since when it has run and reached what it needs; None: it does not."""
        ways = [(process, peer) for peer in needs]
        if process not in self.up or not self.cut.isdisjoint(ways):
            return None
        return max(self.up[process], *(self.whole_s.get(way, float("-inf")) for way in ways))

    def database_answers(self, at_s: float) -> bool:
        """Written to since its last fault, and lately."""
        if self.commit_s <= self.disturbed.get("D", float("-inf")):
            return False
        return at_s - self.commit_s <= _ANSWERS_WITHIN_S

    def broker_answers(self, at_s: float) -> bool:
        """It took a message since its last fault, and lately."""
        if self.publish_s <= self.disturbed.get("B", float("-inf")):
            return False
        return at_s - self.publish_s <= _ANSWERS_WITHIN_S

    def well(self, component: str, at_s: float) -> None:
        self.ill.discard(component)
        self.disturbed[component] = at_s

    def undisturbed_since(self, letters: str) -> float:
        """Since when no fault of these has begun, lasted or ended; infinite while one lasts."""
        if not self.ill.isdisjoint(letters):
            return float("inf")
        return max(self.disturbed.get(letter, float("-inf")) for letter in letters)


def service_of(process: str) -> str:
    """`monitor-2` → monitor, `compute@n1` → compute."""
    return process.partition("@")[0].partition("-")[0]
