"""Is this report acceptable, and what does an acceptable one do to the instance?

Only a report of the node's present session, about the epoch that the ledger gives this very
incarnation of the node, changes an instance. Everything else is said and ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from evac_common.messages.reports import StartErrorKind
from evac_common.model.identity import Gen
from evac_common.model.states import ExitReason, NodeState, Phase, ReleaseKind
from evac_scheduler.core import backoff
from evac_scheduler.core.facts import Claim


class Standing(Enum):
    """What a report about (node, epoch) is worth."""

    ACCEPTED = auto()  # by the owner, in its session
    IGNORED = auto()  # stale or foreign: changes nothing
    SUPERSEDED = auto()  # about an epoch that is over: it has a successor, or its owner is done
    UNKNOWN = auto()  # about an instance or epoch that the ledger does not know


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    standing: Standing
    why: str

    @property
    def accepted(self) -> bool:
        return self.standing is Standing.ACCEPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """The node that reports, as the monitor recorded it."""

    node_id: str
    state: NodeState
    gen: Gen


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    start_backoff_min_s: float = 2.0
    start_backoff_max_s: float = 60.0
    starts_per_owner: int = 3  # failed starts after which another node gets its turn
    storage_retry_s: float = 10.0  # an image lock is held: same node, again and again
    storage_alarm_s: float = 120.0  # NFSv4 leases end after 90 s: a lock held longer needs a person
    restart_step_s: float = 10.0
    restart_max_s: float = 300.0
    stable_s: float = 600.0  # a guest that ran this long starts its restart count anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The instance's status when the report is looked at."""

    phase: Phase
    run: int  # of the ledger
    attempts: int
    phase_age_s: float
    wanted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What to write. `phase` None: nothing, for the reason given."""

    phase: Phase | None
    why: str
    attempts: int = 0
    delay_s: float = 0.0  # no start before
    release: ReleaseKind | None = None
    give_up: bool = False  # ask the owner for the release, so that another node gets its turn
    alarm: bool = False


def session(speaker: Speaker | None, gen: Gen) -> Judgement:
    """May this node speak at all, in this session?"""
    if speaker is None:
        return Judgement(standing=Standing.IGNORED, why="the node is not enrolled")
    if gen != speaker.gen:
        why = (
            f"session ({gen.term}, {gen.incarnation}) is not the node's"
            f" ({speaker.gen.term}, {speaker.gen.incarnation})"
        )
        return Judgement(standing=Standing.IGNORED, why=why)
    if speaker.state is NodeState.FENCED:
        return Judgement(standing=Standing.IGNORED, why="this incarnation is proven dead")
    return Judgement(standing=Standing.ACCEPTED, why="the node's present session")


def judge(
    speaker: Speaker | None,
    gen: Gen,
    epoch: int,
    claim: Claim | None,
    *,
    released: bool,
    dead: bool,
) -> Judgement:
    """May this report about `epoch` change the instance whose last ledger row is `claim`?"""
    spoken = session(speaker, gen)
    if speaker is None or not spoken.accepted:
        return spoken
    if claim is None:
        return Judgement(standing=Standing.UNKNOWN, why="the ledger does not know the instance")
    if epoch < claim.epoch:
        why = f"epoch {epoch} has a successor: {claim.node} owns epoch {claim.epoch}"
        return Judgement(standing=Standing.SUPERSEDED, why=why)
    if epoch > claim.epoch:
        why = f"the ledger ends at epoch {claim.epoch}, it does not know epoch {epoch}"
        return Judgement(standing=Standing.UNKNOWN, why=why)
    if claim.node_id != speaker.node_id:
        # As in a session's contract (evac_monitor.core.registration): while that owner lives, this
        # may be the only living copy, and nobody ends it.
        over = "released" if released else "proven dead" if dead else ""
        if over:
            why = f"epoch {epoch} belonged to {claim.node} and is {over}"
            return Judgement(standing=Standing.SUPERSEDED, why=why)
        return Judgement(standing=Standing.UNKNOWN, why=f"epoch {epoch} belongs to {claim.node}")
    if dead or claim.incarnation != gen.incarnation:
        why = f"epoch {epoch} belongs to incarnation {claim.incarnation}, which has ended"
        return Judgement(standing=Standing.IGNORED, why=why)
    if released:
        return Judgement(standing=Standing.IGNORED, why=f"epoch {epoch} is released already")
    return Judgement(standing=Standing.ACCEPTED, why="from its owner, in its session")


def _nothing(why: str) -> Outcome:
    return Outcome(phase=None, why=why)


def started(seen: Seen, run: int) -> Outcome:
    if run != seen.run:
        return _nothing(f"run {run} is not the present run {seen.run}")
    if seen.phase is not Phase.STARTING:
        return _nothing(f"no start is awaited in phase {seen.phase.value}")
    # Failures before the first run of an epoch happened elsewhere; later ones may be a crash loop.
    attempts = 0 if run == 1 else seen.attempts
    return Outcome(phase=Phase.RUNNING, why="its node reports it running", attempts=attempts)


def start_failed(
    seen: Seen, run: int, kind: StartErrorKind, detail: str, policy: Policy
) -> Outcome:
    if run != seen.run or seen.phase is not Phase.STARTING:
        return _nothing(f"run {run} is not awaited (run {seen.run}, phase {seen.phase.value})")
    attempts = seen.attempts + 1
    said = f"start failed ({kind.value}): {detail}" if detail else f"start failed ({kind.value})"
    if not seen.wanted:
        return Outcome(phase=Phase.PENDING, why=said, attempts=attempts)
    if kind is StartErrorKind.STORAGE_LOCKED:
        # Somebody holds the image: perhaps a copy that nobody knows of. Never elsewhere.
        waited_s = attempts * policy.storage_retry_s
        return Outcome(
            phase=Phase.PENDING,
            why=said,
            attempts=attempts,
            delay_s=policy.storage_retry_s,
            alarm=waited_s % policy.storage_alarm_s < policy.storage_retry_s,
        )
    if attempts % policy.starts_per_owner == 0:
        why = f"{said}; {policy.starts_per_owner} starts failed here: released for another node"
        return Outcome(phase=Phase.STOPPING, why=why, attempts=attempts, give_up=True)
    return Outcome(
        phase=Phase.PENDING, why=said, attempts=attempts, delay_s=_start_delay_s(attempts, policy)
    )


def exited(seen: Seen, run: int, reason: ExitReason, policy: Policy) -> Outcome:
    if run != seen.run:
        return _nothing(f"run {run} is not the present run {seen.run}")
    if seen.phase not in (Phase.RUNNING, Phase.STARTING):
        return _nothing(f"its end changes nothing in phase {seen.phase.value}")
    ran_long = seen.phase is Phase.RUNNING and seen.phase_age_s >= policy.stable_s
    failures = 0 if ran_long else seen.attempts
    delay_s = backoff.restart_s(failures, step_s=policy.restart_step_s, max_s=policy.restart_max_s)
    return Outcome(
        phase=Phase.EXITED,
        why=f"its guest ended ({reason.value})",
        attempts=failures + 1,
        delay_s=delay_s if seen.wanted else 0.0,
    )


def released(seen: Seen, kind: ReleaseKind, detail: str, policy: Policy) -> Outcome:
    """The tombstone is on disk. In whatever phase this arrives, the epoch is over."""
    said = "released by its node" if kind is ReleaseKind.STOPPED else "refused by its node"
    why = f"{said}: {detail}" if detail else said
    if not seen.wanted:
        return Outcome(phase=Phase.STOPPED, why=why, release=kind)
    if kind is ReleaseKind.START_REFUSED or detail:
        attempts = seen.attempts + 1
        delay_s = _start_delay_s(attempts, policy)
        return Outcome(
            phase=Phase.PENDING, why=why, attempts=attempts, delay_s=delay_s, release=kind
        )
    return Outcome(phase=Phase.PENDING, why=why, attempts=seen.attempts, release=kind)


def _start_delay_s(attempts: int, policy: Policy) -> float:
    return backoff.doubling_s(
        attempts, min_s=policy.start_backoff_min_s, max_s=policy.start_backoff_max_s
    )
