"""What this process heard and felt, in memory: heartbeats, its own pulse, and every discontinuity.

Nothing here survives a restart, on purpose: a monitor that starts knows nothing, and counts silence
from its start. All times are given in; `now_s` is the loop's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from evac_monitor.core.gate import Health

INCARNATIONS_MAX: Final = 4  # per node; only its own user can send more
STALL_S: Final = 5.0  # later than this, we were asleep: what we missed says nothing about the nodes
OUTAGE_S: Final = 2.0
JUMP_S: Final = 0.1  # less is the drift of a clock that is being corrected
JUMPS_KEPT_S: Final = 86400.0  # the longest time for which a fencing may count as recent
MEMORY_S: Final = 5.0  # how long a late loop or a jump of the wall clock counts as "lately"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    at_s: float
    term: int
    troubles: Mapping[str, str] = field(default_factory=dict)  # as told
    reasons_since_s: float = 0.0  # since when it has told of the same ones

    def told(self, now_s: float, *, lately_s: float, settled_s: float) -> Mapping[str, str] | None:
        """Its own word, when it is of now and has been the same for a while.

        Several monitors hear the same change a moment apart and must not contradict one another.
        """
        settled = now_s - self.reasons_since_s >= settled_s
        return self.troubles if settled and now_s - self.at_s < lately_s else None


@dataclass(slots=True, kw_only=True)
class Watch:
    """Heartbeats by node and incarnation, since we last may have been deaf."""

    since_s: float
    cause: str = "this monitor started"
    _heard: dict[str, dict[int, Heard]] = field(default_factory=dict)
    _known_since: dict[tuple[str, int], float] = field(default_factory=dict)

    def discontinue(self, cause: str, now_s: float) -> None:
        """We were, or may have been, deaf: every node counts as heard now, and hold-off begins."""
        self.since_s, self.cause = now_s, cause
        self._heard.clear()
        self._known_since.clear()

    def hear(
        self,
        node_id: str,
        *,
        incarnation: int,
        term: int,
        now_s: float,
        troubles: Mapping[str, str] | None = None,
    ) -> None:
        by_incarnation = self._heard.setdefault(node_id, {})
        before, told = by_incarnation.get(incarnation), dict(troubles or {})
        same = before is not None and set(before.troubles) == set(told)
        by_incarnation[incarnation] = Heard(
            at_s=now_s,
            term=term,
            troubles=told,
            reasons_since_s=before.reasons_since_s if before is not None and same else now_s,
        )
        while len(by_incarnation) > INCARNATIONS_MAX:
            del by_incarnation[min(by_incarnation)]

    def heard(self, node_id: str, incarnation: int) -> Heard | None:
        return self._heard.get(node_id, {}).get(incarnation)

    def newest(self, node_id: str) -> tuple[int, Heard] | None:
        """The highest incarnation heard, which may be later than the recorded one."""
        by_incarnation = self._heard.get(node_id)
        return max(by_incarnation.items(), key=lambda item: item[0]) if by_incarnation else None

    def watched_s(self, node_id: str, incarnation: int, now_s: float) -> float:
        """From when on silence of this incarnation counts: it cannot be silent before it exists."""
        return self._known_since.setdefault((node_id, incarnation), now_s)

    def keep(self, recorded: Mapping[str, int]) -> None:
        """Forget nodes that are not recorded any more, and incarnations below the recorded ones."""
        for node_id in [node_id for node_id in self._heard if node_id not in recorded]:
            del self._heard[node_id]
        for node_id, by_incarnation in self._heard.items():
            for old in [number for number in by_incarnation if number < recorded[node_id]]:
                del by_incarnation[old]
        for key in [key for key in self._known_since if recorded.get(key[0]) != key[1]]:
            del self._known_since[key]


@dataclass(slots=True, kw_only=True)
class Elsewhere:
    """When other monitors heard each node, as far as their notes in the database tell.

    A note is a moment of another machine's wall clock, which may be wrong by hours. What counts is
    that it changed, by our own clock; its age only says how long before that the heartbeat was,
    and is believed up to `slack_s`: notes are never older when they are written.
    """

    slack_s: float
    _seen: dict[str, datetime | None] = field(default_factory=dict)
    _heard_s: dict[str, float] = field(default_factory=dict)
    _own: dict[str, tuple[float, datetime]] = field(default_factory=dict)  # heard, as noted

    def see(self, node_id: str, noted: datetime | None, *, now: datetime, now_s: float) -> None:
        """A note as read at `now`, which is `now_s`. The first one read is only remembered."""
        known = node_id in self._seen
        changed = known and self._seen[node_id] != noted
        self._seen[node_id] = noted
        own = self._own.get(node_id)
        if noted is None or not changed or (own is not None and own[1] == noted):
            return
        age_s = min(max(0.0, (now - noted).total_seconds()), self.slack_s)
        self._heard_s[node_id] = max(self._heard_s.get(node_id, now_s - age_s), now_s - age_s)

    def heard_s(self, node_id: str) -> float | None:
        return self._heard_s.get(node_id)

    def is_news(self, node_id: str, heard_s: float) -> bool:
        """Whether we heard it since our own last note: else there is nothing to write."""
        own = self._own.get(node_id)
        return own is None or heard_s > own[0]

    def note(self, node_id: str, heard_s: float, noted: datetime) -> None:
        """Ours, not another's word, when it is read again. Called before it is written."""
        self._own[node_id] = heard_s, noted

    def keep(self, recorded: Mapping[str, int]) -> None:
        for known in (self._seen, self._heard_s, self._own):
            for node_id in [node_id for node_id in known if node_id not in recorded]:
                del known[node_id]


@dataclass(frozen=True, slots=True, kw_only=True)
class Jumped:
    """What was written before looks so much older, or so much newer, than it is. Never below 0."""

    ahead_s: float
    back_s: float


@dataclass(slots=True, kw_only=True)
class Vitals:
    """This process's own pulse, its database and its broker."""

    _pulse_s: float | None = None
    _period_s: float = 0.0
    _wall_s: float = 0.0
    _lag_s: float = 0.0
    _lag_at_s: float = float("-inf")
    _jump_s: float = 0.0
    _jump_at_s: float = float("-inf")
    _wrote_s: float | None = None
    _write_failed: bool = False
    _connected_since_s: float | None = None
    _jumps: list[tuple[float, float]] = field(default_factory=list)  # when, by how many seconds

    def pulse(self, *, now_s: float, wall_s: float, period_s: float) -> str:
        """A tick of the loop. Returns what tore the continuity of our view, if anything did."""
        last_s, last_wall_s = self._pulse_s, self._wall_s
        self._pulse_s, self._wall_s, self._period_s = now_s, wall_s, period_s
        if last_s is None:
            return ""
        late_s = now_s - last_s - period_s
        if late_s >= self._lag_s or now_s - self._lag_at_s > MEMORY_S:
            self._lag_s, self._lag_at_s = max(0.0, late_s), now_s
        jump_s = (wall_s - last_wall_s) - (now_s - last_s)
        if abs(jump_s) >= abs(self._jump_s) or now_s - self._jump_at_s > MEMORY_S:
            self._jump_s, self._jump_at_s = jump_s, now_s
        if abs(jump_s) >= JUMP_S:
            kept = [(at, by) for at, by in self._jumps if now_s - at < JUMPS_KEPT_S]
            self._jumps = [*kept, (now_s, jump_s)]
        if late_s > STALL_S:
            return f"this monitor stalled for {late_s:.1f} s"
        if jump_s > STALL_S:  # a suspended machine: the monotonic clock stood still
            return f"the wall clock jumped by {jump_s:.1f} s"
        return ""

    def jumped(self, *, now_s: float, wall_s: float, within_s: float = JUMPS_KEPT_S) -> Jumped:
        """How far the wall clock has jumped in the last `within_s`, up to this very moment."""
        jumps = [by for at, by in self._jumps if now_s - at <= within_s]
        if self._pulse_s is not None:
            jumps.append((wall_s - self._wall_s) - (now_s - self._pulse_s))
        return Jumped(
            ahead_s=sum(by for by in jumps if by > 0), back_s=-sum(by for by in jumps if by < 0)
        )

    def wrote(self, now_s: float) -> str:
        """A write to the database succeeded."""
        failed, self._write_failed = self._write_failed, False
        gap_s = 0.0 if self._wrote_s is None else now_s - self._wrote_s
        self._wrote_s = now_s
        # One lost race is no outage; what we saw before the gap is still recent.
        return "the database was away and came back" if failed and gap_s > OUTAGE_S else ""

    def write_failed(self) -> None:
        self._write_failed = True

    def connection(self, connected_since_s: float | None) -> str:
        """The broker connection's start, as the bus tells it."""
        if connected_since_s is None or connected_since_s == self._connected_since_s:
            return ""
        first = self._connected_since_s is None
        self._connected_since_s = connected_since_s
        return (
            "connected to the broker" if first else "the broker connection was lost and came back"
        )

    def health(self, *, now_s: float, canary_at_s: float | None) -> Health:
        lately_late = now_s - self._lag_at_s <= MEMORY_S
        # A beat that is overdue now counts too: whoever asks may run before it after a stall.
        overdue_s = 0.0 if self._pulse_s is None else now_s - self._pulse_s - self._period_s
        lately_jumped = now_s - self._jump_at_s <= MEMORY_S
        return Health(
            write_age_s=None if self._wrote_s is None else now_s - self._wrote_s,
            lag_s=max(self._lag_s if lately_late else 0.0, overdue_s),
            canary_age_s=None if canary_at_s is None else now_s - canary_at_s,
            clock_jump_s=self._jump_s if lately_jumped else 0.0,
        )
