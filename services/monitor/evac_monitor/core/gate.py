"""May a silent node be cut off automatically? Each gate answers alone, with a reason.

A gate guards against one way of being wrong about the whole cluster. All of them are always asked,
so that the stored decision shows every answer, not the first refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import floor
from typing import Any, Final


class Gate(StrEnum):
    OWN_HEALTH = "own_health"
    HOLD_OFF = "hold_off"
    BLAST_RADIUS = "blast_radius"
    RATE = "rate"
    DISARMED = "disarmed"
    STORM = "storm"
    OPERATOR = "operator"  # no gate: stands in a decision that an operator made


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    hold_off_s: float
    blast_radius: float  # share of the registered nodes
    fence_interval_s: float
    fence_parallel: int
    write_age_max_s: float = 2.0
    lag_max_s: float = 1.0
    canary_age_max_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How this monitor itself is. Ages in seconds; None: never."""

    write_age_s: float | None  # since a write to the database last succeeded
    lag_s: float  # how late the event loop was, at worst, lately
    canary_age_s: float | None  # since our own message last came back through the broker
    clock_jump_s: float = 0.0  # wall clock against monotonic clock, lately


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    health: Health
    steady_s: float  # since the last discontinuity of the control plane
    discontinuity: str  # what it was
    nodes: int  # registered
    dead: Sequence[str] = ()  # names: long silent, fencing, blocked, or fenced within the window
    wavering: Sequence[str] = ()  # names: suspect, not yet long silent
    fencings: int = 0  # in progress
    last_fencing_age_s: float | None = None
    disarmed_for_s: float | None = None  # left; None: armed
    disarmed_reason: str = ""
    storm: bool = False
    storm_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    gate: Gate
    open: bool
    why: str

    def as_json(self) -> dict[str, Any]:
        return {"gate": self.gate.value, "open": self.open, "why": self.why}


def unwell(health: Health, policy: Policy) -> str:
    """Why this monitor should not trust what it sees; empty when it is well."""
    if health.write_age_s is None:
        return "no write to the database has succeeded yet"
    if health.write_age_s >= policy.write_age_max_s:
        return f"the last write to the database is {health.write_age_s:.1f} s old"
    if health.lag_s >= policy.lag_max_s:
        return f"the event loop was {health.lag_s:.1f} s late"
    if health.canary_age_s is None:
        return "no message of our own has come back through the broker yet"
    if health.canary_age_s >= policy.canary_age_max_s:
        return f"our own message last came back {health.canary_age_s:.1f} s ago"
    if abs(health.clock_jump_s) >= policy.lag_max_s:
        return f"the wall clock jumped by {health.clock_jump_s:.1f} s"
    return ""


def blast_limit(nodes: int, policy: Policy) -> int:
    """How many nodes may be dead at once before it looks like our own network."""
    return max(1, floor(policy.blast_radius * nodes))


def own_health(view: View, policy: Policy) -> Answer:
    why = unwell(view.health, policy)
    return Answer(gate=Gate.OWN_HEALTH, open=not why, why=why or "database, loop and broker answer")


def hold_off(view: View, policy: Policy) -> Answer:
    left_s = policy.hold_off_s - view.steady_s
    if left_s > 0:
        why = f"{view.discontinuity} {view.steady_s:.1f} s ago; waits {left_s:.1f} s more"
        return Answer(gate=Gate.HOLD_OFF, open=False, why=why)
    return Answer(gate=Gate.HOLD_OFF, open=True, why=f"steady for {view.steady_s:.0f} s")


def blast_radius(view: View, policy: Policy) -> Answer:
    limit = blast_limit(view.nodes, policy)
    dead, wavering = len(view.dead), len(view.wavering)
    of = f"of {view.nodes} nodes, at most {limit}"
    if dead > limit:
        why = f"{dead} {of}: {_names(view.dead)}"
        return Answer(gate=Gate.BLAST_RADIUS, open=False, why=why)
    if dead + wavering > limit:
        why = f"{dead} and {wavering} wavering {of}: waits for {_names(view.wavering)}"
        return Answer(gate=Gate.BLAST_RADIUS, open=False, why=why)
    return Answer(gate=Gate.BLAST_RADIUS, open=True, why=f"{dead} {of}")


def rate(view: View, policy: Policy) -> Answer:
    if view.fencings >= policy.fence_parallel:
        why = f"{view.fencings} fencings are in progress, at most {policy.fence_parallel}"
        return Answer(gate=Gate.RATE, open=False, why=why)
    age_s = view.last_fencing_age_s
    # A wall clock that went back would make the last fencing lie in the future for ever.
    if age_s is not None and -policy.fence_interval_s <= age_s < policy.fence_interval_s:
        why = f"the last fencing began {age_s:.1f} s ago, one per {policy.fence_interval_s:.0f} s"
        return Answer(gate=Gate.RATE, open=False, why=why)
    return Answer(gate=Gate.RATE, open=True, why=f"{view.fencings} fencings are in progress")


def disarmed(view: View, policy: Policy) -> Answer:
    if view.disarmed_for_s is not None:
        why = f"disarmed for {view.disarmed_for_s:.0f} s more: {view.disarmed_reason}"
        return Answer(gate=Gate.DISARMED, open=False, why=why)
    return Answer(gate=Gate.DISARMED, open=True, why="automatic fencing is armed")


def storm(view: View, policy: Policy) -> Answer:
    if view.storm:
        why = f"{view.storm_reason}; waits for an operator: evac cluster storm release"
        return Answer(gate=Gate.STORM, open=False, why=why)
    return Answer(gate=Gate.STORM, open=True, why="no storm is declared")


GATES: Final[Mapping[Gate, Callable[[View, Policy], Answer]]] = {
    Gate.OWN_HEALTH: own_health,
    Gate.HOLD_OFF: hold_off,
    Gate.BLAST_RADIUS: blast_radius,
    Gate.RATE: rate,
    Gate.DISARMED: disarmed,
    Gate.STORM: storm,
}


def ask(view: View, policy: Policy) -> tuple[Answer, ...]:
    """Every gate's answer."""
    return tuple(gate(view, policy) for gate in GATES.values())


def storm_to_declare(view: View, answers: Sequence[Answer], policy: Policy) -> str:
    """Why a storm must be declared now; empty: it must not.

    Only a monitor that may trust its own view declares one, and only while fencing is armed: what
    an operator switched off for network maintenance is no storm.
    """
    trusted = all(
        answer.open
        for answer in answers
        if answer.gate in (Gate.OWN_HEALTH, Gate.HOLD_OFF, Gate.DISARMED)
    )
    limit = blast_limit(view.nodes, policy)
    if view.storm or not trusted or len(view.dead) <= limit:
        return ""
    return f"{len(view.dead)} of {view.nodes} nodes look dead, at most {limit} may be fenced"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:10])
    return shown + (" ..." if len(names) > 10 else "")
