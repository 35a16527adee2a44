"""Who can speak to whom: cuts between endpoints and peers, in both directions or in one.

Endpoints are nodes and replicas of controllers. Ways to BMCs are a network of their own, which
nothing here touches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from evac_lab.scenario.timeline import BROKER, DATABASE, SHARED_PARTS, Direction

OPERATORS = "operators"  # who calls the api over HTTP
Changed = Callable[[], None]
_BOTH = frozenset({Direction.IN, Direction.OUT})


class Network:
    """Every way that is cut. `watch` is told when a way changed."""

    def __init__(self, nodes: Iterable[str]) -> None:
        self._peers = (*SHARED_PARTS, OPERATORS, *nodes)
        self._cuts: dict[tuple[str, str], frozenset[Direction]] = {}
        self._watching: dict[tuple[str, str], list[Changed]] = {}

    def watch(self, endpoint: str, peer: str, changed: Changed) -> None:
        self._watching.setdefault((endpoint, peer), []).append(changed)

    def passes(self, endpoint: str, peer: str) -> tuple[bool, bool]:
        """Whether what the endpoint sends arrives, and whether it hears the peer."""
        cut = self._cuts.get((endpoint, peer))
        return (Direction.OUT not in cut, Direction.IN not in cut) if cut else (True, True)

    def whole(self, endpoint: str, peer: str) -> bool:
        return (endpoint, peer) not in self._cuts

    def cut(self, endpoint: str, peer: str | None, direction: Direction) -> None:
        """`peer` None: everything that the endpoint talks to."""
        for way in self._ways(endpoint, peer):
            self._set(way, self._cuts.get(way, frozenset()) | _directions(direction))

    def heal(self, endpoint: str, peer: str | None, direction: Direction) -> None:
        for way in self._ways(endpoint, peer):
            self._set(way, self._cuts.get(way, frozenset()) - _directions(direction))

    def _ways(self, endpoint: str, peer: str | None) -> list[tuple[str, str]]:
        peers = self._peers if peer is None else (peer,)
        return [(endpoint, each) for each in peers if each != endpoint]

    def _set(self, way: tuple[str, str], cut: frozenset[Direction]) -> None:
        if cut == self._cuts.get(way, frozenset()):
            return
        if cut:
            self._cuts[way] = cut
        else:
            del self._cuts[way]
        for changed in self._watching.get(way, ()):
            changed()


def _directions(direction: Direction) -> frozenset[Direction]:
    return _BOTH if direction is Direction.BOTH else frozenset({direction})


__all__ = ["BROKER", "DATABASE", "OPERATORS", "Network"]
