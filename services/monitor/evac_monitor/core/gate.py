"""May a silent node be cut off automatically? Each gate answers alone, with a reason.

A gate guards against one way of being wrong, about the whole cluster (`View`) or about this node
(`Subject`). All of them are always asked, so that the stored decision shows every answer, not the
first refusal.

A node whose BMC read Off before any decision is dead and not partitioned: it does not count
towards the blast radius, and passes it and a storm. That proves nothing. It is cut off like any
other, and its proof is two readings of Off *after* the decision; if it was switched on meanwhile,
those readings say so, and it is switched off first. So a wrong reading here can only cost a node
its power, as any wrong fencing, and never lets an instance run twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from math import floor
from typing import Any, Final

from evac_monitor.core.witnesses import Round, Sighting, needed


class Gate(StrEnum):
    OWN_HEALTH = "own_health"
    HOLD_OFF = "hold_off"
    RECOVERING = "recovering"
    SECOND_CHANNEL = "second_channel"
    PEERS = "peers"
    BLAST_RADIUS = "blast_radius"
    RATE = "rate"
    DISARMED = "disarmed"
    STORM = "storm"
    OPERATOR = "operator"  # no gate: stands in a decision that an operator made


class OnIsolated(StrEnum):
    """What is done with a silent node that a second channel shows alive."""

    WAIT = "wait"  # it keeps what it runs; it is degraded until it speaks or falls silent there too
    FENCE = "fence"  # as with any silent node


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    hold_off_s: float
    blast_radius: float  # share of the registered nodes
    fence_interval_s: float
    fence_parallel: int
    write_age_max_s: float = 2.0
    lag_max_s: float = 1.0
    canary_age_max_s: float = 5.0
    on_isolated: OnIsolated = OnIsolated.WAIT


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
    # Names: long silent, fencing, blocked, or fenced within the window; not whose power read Off.
    dead: Sequence[str] = ()
    wavering: Sequence[str] = ()  # names: suspect, not yet long silent
    unread: Sequence[str] = ()  # of the dead: their BMC is being asked whether they have power
    off: Sequence[str] = ()  # names: long silent, and their power read Off
    all_silent: str = ""  # why it is the broker that is silent, not the nodes
    fencings: int = 0  # in progress
    last_fencing_age_s: float | None = None
    disarmed_for_s: float | None = None  # left; None: armed
    disarmed_reason: str = ""
    storm: bool = False
    storm_reason: str = ""
    recovering: bool = False  # the database went back in time, and is told what it forgot
    has_second_channel: bool = False
    has_peers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The node that is to be cut off, and what others say of it."""

    found_off: str = ""  # how its power was read Off; empty: it was not
    second: Sighting | None = None  # None: has not answered lately
    peers: Round | None = None


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


def power_matters(view: View, policy: Policy) -> bool:
    """Whether it makes a difference if a silent node has power: else its BMC is left in peace."""
    many = len(view.dead) + len(view.off) > blast_limit(view.nodes, policy)
    return many or view.storm or bool(view.all_silent)


def own_health(view: View, subject: Subject, policy: Policy) -> Answer:
    why = unwell(view.health, policy)
    return Answer(gate=Gate.OWN_HEALTH, open=not why, why=why or "database, loop and broker answer")


def hold_off(view: View, subject: Subject, policy: Policy) -> Answer:
    left_s = policy.hold_off_s - view.steady_s
    if left_s > 0:
        why = f"{view.discontinuity} {view.steady_s:.1f} s ago; waits {left_s:.1f} s more"
        return Answer(gate=Gate.HOLD_OFF, open=False, why=why)
    return Answer(gate=Gate.HOLD_OFF, open=True, why=f"steady for {view.steady_s:.0f} s")


def recovering(view: View, subject: Subject, policy: Policy) -> Answer:
    if view.recovering:
        why = "the database went back in time, and not every node has told it what it forgot"
        return Answer(gate=Gate.RECOVERING, open=False, why=why)
    return Answer(gate=Gate.RECOVERING, open=True, why="the database knows every node")


def second_channel(view: View, subject: Subject, policy: Policy) -> Answer:
    def answer(is_open: bool, why: str) -> Answer:
        return Answer(gate=Gate.SECOND_CHANNEL, open=is_open, why=why)

    if not view.has_second_channel:
        return answer(True, "no second channel is configured")
    seen = subject.second
    if seen is None:
        return answer(False, "the second channel has not answered yet")
    if seen.alive is None:
        return answer(False, f"the second channel cannot tell: {seen.why}")
    if not seen.alive:
        return answer(True, f"silent on the second channel too: {seen.why}")
    why = f"isolated, {seen.why}; on_isolated is {policy.on_isolated}"
    return answer(policy.on_isolated is OnIsolated.FENCE, why)


def peers(view: View, subject: Subject, policy: Policy) -> Answer:
    def answer(is_open: bool, why: str) -> Answer:
        return Answer(gate=Gate.PEERS, open=is_open, why=why)

    if not view.has_peers:
        return answer(True, "no way to ask peers is configured")
    told = subject.peers
    if told is None:
        return answer(False, "the peers have not answered yet")
    if not told.asked:
        return answer(True, "no other node is up that could be asked")
    failed, least = len(told.failed), needed(told.asked)
    if failed >= least:
        return answer(True, f"{failed} of {told.asked} peers do not reach it")
    parts = [f"{failed} of {told.asked} peers do not reach it, {least} must not"]
    if told.reached:
        parts.append(f"it is reached by {_names(told.reached)}")
    if told.mute:
        parts.append(f"no answer from {_names(told.mute)}")
    return answer(False, "; ".join(parts))


def blast_radius(view: View, subject: Subject, policy: Policy) -> Answer:
    limit = blast_limit(view.nodes, policy)
    dead, wavering = len(view.dead), len(view.wavering)
    of = f"of {view.nodes} nodes, at most {limit}"
    if subject.found_off:
        why = f"{subject.found_off}: dead, not partitioned"
        return Answer(gate=Gate.BLAST_RADIUS, open=True, why=why)
    if view.all_silent:
        return Answer(gate=Gate.BLAST_RADIUS, open=False, why=view.all_silent)
    if dead > limit:
        why = f"{dead} {of}: {_names(view.dead)}"
        return Answer(gate=Gate.BLAST_RADIUS, open=False, why=why)
    if dead + wavering > limit:
        why = f"{dead} and {wavering} wavering {of}: waits for {_names(view.wavering)}"
        return Answer(gate=Gate.BLAST_RADIUS, open=False, why=why)
    return Answer(gate=Gate.BLAST_RADIUS, open=True, why=f"{dead} {of}")


def rate(view: View, subject: Subject, policy: Policy) -> Answer:
    if view.fencings >= policy.fence_parallel:
        why = f"{view.fencings} fencings are in progress, at most {policy.fence_parallel}"
        return Answer(gate=Gate.RATE, open=False, why=why)
    age_s = view.last_fencing_age_s
    # A wall clock that went back would make the last fencing lie in the future for ever.
    if age_s is not None and -policy.fence_interval_s <= age_s < policy.fence_interval_s:
        why = f"the last fencing began {age_s:.1f} s ago, one per {policy.fence_interval_s:.0f} s"
        return Answer(gate=Gate.RATE, open=False, why=why)
    return Answer(gate=Gate.RATE, open=True, why=f"{view.fencings} fencings are in progress")


def disarmed(view: View, subject: Subject, policy: Policy) -> Answer:
    if view.disarmed_for_s is not None:
        why = f"disarmed for {view.disarmed_for_s:.0f} s more: {view.disarmed_reason}"
        return Answer(gate=Gate.DISARMED, open=False, why=why)
    return Answer(gate=Gate.DISARMED, open=True, why="automatic fencing is armed")


def storm(view: View, subject: Subject, policy: Policy) -> Answer:
    if view.storm and subject.found_off:
        why = f"a storm is declared; {subject.found_off}: dead, not partitioned"
        return Answer(gate=Gate.STORM, open=True, why=why)
    if view.storm:
        why = f"{view.storm_reason}; waits for an operator: evac cluster storm release"
        return Answer(gate=Gate.STORM, open=False, why=why)
    return Answer(gate=Gate.STORM, open=True, why="no storm is declared")


GATES: Final[Mapping[Gate, Callable[[View, Subject, Policy], Answer]]] = {
    Gate.OWN_HEALTH: own_health,
    Gate.HOLD_OFF: hold_off,
    Gate.RECOVERING: recovering,
    Gate.SECOND_CHANNEL: second_channel,
    Gate.PEERS: peers,
    Gate.BLAST_RADIUS: blast_radius,
    Gate.RATE: rate,
    Gate.DISARMED: disarmed,
    Gate.STORM: storm,
}


def ask(view: View, subject: Subject, policy: Policy) -> tuple[Answer, ...]:
    """Every gate's answer about one node."""
    return tuple(gate(view, subject, policy) for gate in GATES.values())


def storm_to_declare(view: View, policy: Policy) -> str:
    """Why a storm must be declared now; empty: it must not.

    Only a monitor that may trust its own view declares one, and only while fencing is armed: what
    an operator switched off for network maintenance is no storm. Neither is a silent broker, which
    ends by itself; and nobody knows yet while BMCs are still asked whether nodes have power.
    """
    trusted = all(
        GATES[gate](view, Subject(), policy).open
        for gate in (Gate.OWN_HEALTH, Gate.HOLD_OFF, Gate.RECOVERING, Gate.DISARMED)
    )
    limit = blast_limit(view.nodes, policy)
    if view.storm or view.all_silent or view.unread or not trusted or len(view.dead) <= limit:
        return ""
    return f"{len(view.dead)} of {view.nodes} nodes look dead, at most {limit} may be fenced"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:10])
    return shown + (" ..." if len(names) > 10 else "")


def forgiven_until(
    released_at: datetime | None, now: datetime, set_back_s: float
) -> datetime | None:
    """Up to when deaths were known to whoever released the last storm; None: there is none.

    `set_back_s`: how far the clock that is read now was set back since. A moment that is still to
    come was written by a clock that was ahead, and would forgive whatever comes until then.
    """
    if released_at is None:
        return None
    until = released_at - timedelta(seconds=set_back_s)
    return until if until <= now else None
