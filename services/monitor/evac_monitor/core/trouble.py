"""Why a node that is alive should be degraded, and when nothing is wrong with it any more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from evac_common.model.states import TOLD_TROUBLES, NodeState, Trouble
from evac_monitor.core.states import On

#: (instance id, verb, epoch, run): the same thing asked for, however often it was sent.
Asked = tuple[str, str, int, int]

NO_TROUBLES: Final[Mapping[Trouble, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A command to a node in its session that the scheduler still waits for, and still sends."""

    node_id: str
    asked: Asked


@dataclass(slots=True, kw_only=True)
class Answers:
    """Since when each command has been unanswered, by our own monotonic clock."""

    _since_s: dict[str, dict[Asked, float]] = field(default_factory=dict)
    _seen: bool = False  # since we began to count

    def see(self, outstanding: Iterable[Unanswered], now_s: float) -> None:
        """Remember what is open now; whatever is not is answered, or nobody asks any more."""
        self._seen = True
        before, self._since_s = self._since_s, {}
        for each in outstanding:
            since_s = before.get(each.node_id, {}).get(each.asked, now_s)
            self._since_s.setdefault(each.node_id, {})[each.asked] = since_s

    def forget(self) -> None:
        """We, or the broker, were away: what was not answered meanwhile could not be."""
        self._since_s, self._seen = {}, False

    def why(self, node_id: str, now_s: float, limit_s: float, *, degraded: bool) -> str | None:
        """Why it counts as not executing; empty: it does not; None: we have not looked yet.

        Once it counts, it does so until nothing is open: a monitor that began to count later must
        not contradict the one that counted to the end.
        """
        if not self._seen:
            return None
        open_s = self._since_s.get(node_id, {})
        late = [now_s - since_s for since_s in open_s.values() if now_s - since_s >= limit_s]
        if late:
            return f"{len(late)} commands are unanswered, one for {max(late):.0f} s"
        if degraded and open_s:
            return f"{len(open_s)} commands are unanswered"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as recorded, and what is known of its troubles now."""

    state: NodeState
    recorded: Collection[Trouble]
    told: Mapping[str, str] | None  # its own word, settled; None: not heard, or it just changed
    in_session: bool  # its last heartbeat was of its session
    not_executing: str | None  # why; empty: it executes; None: not known yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    on: On
    troubles: dict[Trouble, str]
    why: str


_JUDGED: Final = (NodeState.UP, NodeState.DEGRADED)


def decide(node: Node) -> Change | None:
    """What follows from the troubles of a node that is heard. None: nothing."""
    if node.told is None or node.state not in _JUDGED:
        return None
    if Trouble.DAEMON_SILENT in node.recorded and not node.in_session:
        why = "its heartbeats arrive again, without its session"
        return Change(on=On.HEARD_WITHOUT_SESSION, troubles={}, why=why)
    not_executing = node.not_executing
    if not_executing is None and Trouble.NOT_EXECUTING in node.recorded:
        not_executing = "as another monitor counted"
    now = troubles(node.told, not_executing)
    if set(now) == set(node.recorded):
        return None
    if not now:
        return Change(on=On.RECOVERED, troubles={}, why=f"it was {words(node.recorded)}")
    return Change(on=On.TROUBLED, troubles=now, why=sentence(now))


def troubles(told: Mapping[str, str], not_executing: str | None) -> dict[Trouble, str]:
    """What is wrong with a node that is heard; what it says beyond what we know is passed over."""
    found = {trouble: told[trouble.value] for trouble in TOLD_TROUBLES if trouble.value in told}
    if not_executing:
        found[Trouble.NOT_EXECUTING] = not_executing
    return dict(sorted(found.items()))


def sentence(found: Mapping[Trouble, str]) -> str:
    return "; ".join(f"{trouble}: {why}" if why else f"{trouble}" for trouble, why in found.items())


def words(found: Collection[Trouble]) -> str:
    return ", ".join(sorted(found))
