"""How a node is cut off by its power: which try comes next, and what one try does next.

Only what the BMC *reads* counts: Off twice in a row, with a pause between the two. What it answers
to the order proves nothing. The state is read first, so that a node which is off already, or a try
that a dead monitor left behind, needs no order at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from evac_common.model.states import NodeState

ONLY_READ: Final = (
    "its power is on, and nothing is switched off while the database is told what it forgot"
)


class PowerState(StrEnum):
    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"  # the BMC answered, and the answer says neither


class AttemptState(StrEnum):
    RUNNING = "running"
    PROVEN = "proven"
    FAILED = "failed"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    try_s: float  # time limit of one try
    tries: int  # failed tries after which a person must decide
    read_gap_s: float  # between the two readings of Off
    poll_s: float  # between readings while it is still on
    resume_s: float  # a running try older than this was left by a dead monitor
    retry_blocked_s: float  # pause between tries while blocked


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A recorded try. Ages in seconds by the database's wall clock."""

    attempt_id: str
    number: int
    state: AttemptState
    began_ago_s: float
    ended_ago_s: float | None = None
    detail: str = ""
    holder: str = ""  # the monitor that began it, or took it over
    ours: bool = False  # that is this very process


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A node in fencing or blocked; the attempts are those of its recorded incarnation."""

    state: NodeState
    no_method: str  # why there is nothing to try; empty: there is a BMC
    attempts: Sequence[Attempt] = ()
    running_here: bool = False  # this process is carrying out a try for the node now


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    attempt_id: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    why: str


Step = Try | Resume | Block | Wait


def next_step(case: Case, policy: Policy) -> Step:
    """What is to be done about a node that must be cut off."""
    if case.running_here:
        return Wait(why="a try is running here")
    if case.no_method:
        if case.state is NodeState.FENCING:
            return Block(why=case.no_method)
        return Wait(why=case.no_method)
    attempts = sorted(case.attempts, key=lambda attempt: attempt.number)
    last = attempts[-1] if attempts else None
    if last is None:
        return Try(number=1)
    if last.state is AttemptState.RUNNING:
        fresh = -policy.resume_s < last.began_ago_s < policy.resume_s  # another's clock may differ
        if fresh and not last.ours:
            return Wait(why=f"try {last.number} is running")
        return Resume(attempt_id=last.attempt_id, number=last.number)
    if case.state is NodeState.FENCING:
        failed = [attempt for attempt in attempts if attempt.state is AttemptState.FAILED]
        if len(failed) >= policy.tries:
            return Block(why=f"{len(failed)} tries failed; the last: {last.detail}")
        return Try(number=last.number + 1)
    pause_s = last.ended_ago_s if last.ended_ago_s is not None else last.began_ago_s
    if 0 <= pause_s < policy.retry_blocked_s:
        return Wait(why=f"blocked; tries again in {policy.retry_blocked_s - pause_s:.0f} s")
    return Try(number=last.number + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One answer of the BMC; `error` when there was none. Times on our monotonic clock."""

    asked_s: float
    answered_s: float
    state: PowerState = PowerState.UNKNOWN
    error: str = ""
    hopeless: bool = False  # the error will not go away within this try (a wrong password)
    cut_short: bool = False  # the try's time was over before the driver's own limit for a call


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one try has done so far."""

    began_s: float
    only_read: bool = False  # nothing is switched off: it proves what is off already
    readings: tuple[Reading, ...] = ()
    identified: bool = False  # the BMC was asked whose it is
    ordered_s: float | None = None  # when the order to power off was last answered, or failed
    order_accepted: bool = False
    order_error: str = ""  # what the last order met with


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    after_s: float  # not before this moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Give the order to power off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    readings: tuple[Reading, Reading]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    why: str


Move = Read | Order | Proven | Failed


def next_move(progress: Progress, now_s: float, policy: Policy) -> Move:
    """What one try does next."""
    readings = progress.readings
    if len(readings) >= 2:
        first, second = readings[-2:]
        both_off = first.state is PowerState.OFF and second.state is PowerState.OFF
        if both_off and second.asked_s - first.answered_s >= policy.read_gap_s:
            return Proven(readings=(first, second))
    ends_s = progress.began_s + policy.try_s
    if now_s >= ends_s:
        return Failed(why=_why_failed(progress, policy))
    if not readings:
        return Read(after_s=now_s)
    last = readings[-1]
    if last.hopeless:
        return Failed(why=_why_failed(progress, policy))
    if last.state is PowerState.OFF:
        # Counted from the latest Off: one that came too early after another is a first one again.
        return _read_at(last.answered_s + policy.read_gap_s, ends_s, progress, policy)
    ordered_s = progress.ordered_s
    unheeded = ordered_s is None or ordered_s < last.asked_s  # it was read after the last order
    if last.state is PowerState.ON and progress.only_read:
        return Failed(why=ONLY_READ)
    if last.state is PowerState.ON and unheeded and not progress.order_accepted:
        return Order()
    quiet_since_s = max(last.answered_s, ordered_s if ordered_s is not None else last.answered_s)
    return _read_at(quiet_since_s + policy.poll_s, ends_s, progress, policy)


def _read_at(at_s: float, ends_s: float, progress: Progress, policy: Policy) -> Move:
    if at_s >= ends_s:
        return Failed(why=_why_failed(progress, policy))
    return Read(after_s=at_s)


def _why_failed(progress: Progress, policy: Policy) -> str:
    limit = f"within {policy.try_s:.0f} s"
    if not progress.readings:
        return f"the BMC did not answer {limit}"
    # One that the end of the try cut short has less to tell than one before it.
    last = next((each for each in reversed(progress.readings) if not each.cut_short), None)
    if last is None:
        last = progress.readings[-1]
    order = f"; the order to power off: {progress.order_error}" if progress.order_error else ""
    if last.error:
        return f"{last.error}{order}"
    if last.state is PowerState.OFF:
        return f"off was read only once {limit}{order}"
    ordered = ", though the order to power off was accepted" if progress.order_accepted else ""
    return f"the BMC read {last.state} {limit}{ordered}{order}"


def same_system(told: str, enrolled: str) -> bool:
    """Whether a BMC's UUID is the DMI UUID of the node's hardware.

    BMCs send the 16 bytes in any of three orders: as DMI writes them, with the first three fields
    swapped, or all reversed. A UUID of only 0 or only F says nothing, so it contradicts nothing.
    """
    ours, theirs = _hex(enrolled), _hex(told)
    if len(set(theirs)) <= 1 or not ours:
        return True
    pairs = [theirs[index : index + 2] for index in range(0, 32, 2)]
    swapped = [*reversed(pairs[:4]), *reversed(pairs[4:6]), *reversed(pairs[6:8]), *pairs[8:]]
    return ours in (theirs, "".join(swapped), "".join(reversed(pairs)))


def _hex(uuid: str) -> str:
    return uuid.replace("-", "").lower()
