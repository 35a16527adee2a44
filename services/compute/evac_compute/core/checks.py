"""May this command be carried out here, now?

All of these must hold, in this order: the session, the tombstone, no other epoch on the
node, a run that is newer than the last one executed, the deadline. A command that was carried out
before gets its answer again, from what is true now; it never acts twice.

The deadline is no safety rule, the others are: a start that is executed late still is of the node's
present session, of an epoch that was not released here, and of a run that was never executed. It
only spares work that the controllers have given up, so in doubt a start counts as in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from evac_common.messages.commands import Command, Destroy, Session, Start, Stop
from evac_common.messages.reports import RefusalReason
from evac_common.model.identity import Gen
from evac_compute.core.record import Ran, RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """A domain of the instance, as the hypervisor shows it. Epoch 0: it is not evac's."""

    epoch: int
    run: int
    running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InSession:
    """The session that the node is in."""

    gen: Gen
    proven_dead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All that is known about one instance when a command for it is looked at."""

    session: InSession | None
    tomb: int
    ran: Ran | None
    present: Present | None
    now: datetime  # by the clock that told a start's deadline: see `sender_now`
    replayed: bool  # it was in the journal when the daemon started


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Not carried out; frees nothing."""

    reason: RefusalReason
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SayStarted:
    """It executes already under this epoch: say so, for this run."""

    run: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SayReleased:
    """The epoch was released here earlier: make sure that nothing is left of it, then say so
    again.
    """

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SayFailed:
    """This run was begun and its outcome is not to be seen: it failed, the epoch is kept."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute:
    """Start it. `clear`: what is left of an earlier run, not executing, is ended first."""

    why: str
    clear: bool = False


StartDecision = Refuse | SayStarted | SayReleased | SayFailed | Execute


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Write the tombstone, end the domain, say so."""

    why: str


def session(command: Command, present: InSession | None) -> Refuse | None:
    """A command is obeyed only in the session that it was issued for."""
    if present is None:
        return Refuse(reason=RefusalReason.NO_SESSION, why="the node is in no session yet")
    if command.gen != present.gen:
        return Refuse(
            reason=RefusalReason.OLD_GEN,
            why=f"issued for session ({command.gen.term}, {command.gen.incarnation}), "
            f"the node is in ({present.gen.term}, {present.gen.incarnation})",
        )
    return None


def new_session(
    command: Session, *, incarnation: int, boot_id: str, term_seen: int
) -> Refuse | None:
    """A session is for this life of this very machine, and its term never goes back.

    A copy of a node's disk on another machine has its incarnation, its credentials and so its
    queue; what it cannot have is the boot that registered. In a session it would run what is proven
    dead when the power of the real node was read off.
    """
    if command.boot_id and command.boot_id != boot_id:
        return Refuse(
            reason=RefusalReason.OLD_GEN,
            why=f"for boot {command.boot_id}, this is boot {boot_id}",
        )
    if command.incarnation != incarnation:
        return Refuse(
            reason=RefusalReason.OLD_GEN,
            why=f"for incarnation {command.incarnation}, this is incarnation {incarnation}",
        )
    if command.term < term_seen:
        return Refuse(
            reason=RefusalReason.OLD_GEN,
            why=f"term {command.term} is older than term {term_seen}, which the node has seen",
        )
    return None


def sender_now(command: Start, *, waited_s: float) -> datetime:
    """The time on the clock that told the start's deadline, `waited_s` after the start arrived.

    Not this node's wall clock: a node a day ahead would refuse every start for ever, and its
    instances would be lost. Nor a time learned from a session: that is the monitor's clock, the
    deadline is the scheduler's, and those two may differ as well. What the start took on its way is
    not known and counts as nothing, which makes the answer too early, never too late.
    """
    if command.issued_at is None:
        return command.deadline  # an older sender: there is nothing to count from
    return command.issued_at + timedelta(seconds=waited_s)


def start(command: Start, known: Known) -> StartDecision:
    refused = session(command, known.session)
    if refused:
        return refused
    if known.session is not None and known.session.proven_dead:
        why = "this incarnation of the node is proven dead: nothing starts in it"
        return Refuse(reason=RefusalReason.NO_SESSION, why=why)
    if command.epoch == known.tomb:
        return SayReleased(why=f"epoch {command.epoch} was released here earlier")
    if command.epoch < known.tomb:
        why = f"epoch {command.epoch} is older than epoch {known.tomb}, which was released here"
        return Refuse(reason=RefusalReason.OLD_EPOCH, why=why)
    if known.present is not None and known.present.epoch != command.epoch:
        why = f"a domain of epoch {known.present.epoch} is on the node"
        return Refuse(reason=RefusalReason.OTHER_EPOCH_PRESENT, why=why)
    if known.ran is not None and known.ran.epoch > command.epoch:
        why = f"epoch {known.ran.epoch} was executed here already"
        return Refuse(reason=RefusalReason.OLD_EPOCH, why=why)
    return _run(command, known)


def _last_run(epoch: int, known: Known) -> int:
    """The highest run of this epoch that was executed here, by the journal or by the domain
    itself.
    """
    journalled = known.ran.run if known.ran is not None and known.ran.epoch == epoch else 0
    shown = known.present.run if known.present is not None and known.present.epoch == epoch else 0
    return max(journalled, shown)


def _run(command: Start, known: Known) -> StartDecision:
    """The epoch is right; is the run, and is it in time?"""
    present = known.present
    last = _last_run(command.epoch, known)
    executing = present is not None and present.running
    if command.run == last and executing:
        return SayStarted(run=command.run, why="this run executes")
    begun = known.replayed and known.ran is not None and known.ran.state is RunState.BEGUN
    resumed = command.run == last and begun
    if command.run <= last and not resumed:
        why = f"run {last} of epoch {command.epoch} was executed already"
        return Refuse(reason=RefusalReason.OLD_RUN, why=why)
    if resumed and present is None:
        return SayFailed(why="the daemon ended during this start, and no domain is there")
    if known.now > command.deadline:
        late_s = (known.now - command.deadline).total_seconds()
        return Refuse(reason=RefusalReason.DEADLINE, why=f"its deadline passed {late_s:.1f} s ago")
    if executing:
        return SayStarted(run=command.run, why="the epoch executes already; it has this run now")
    if resumed:
        return Execute(why="the domain was built and does not execute yet")
    return Execute(why="all checks passed", clear=present is not None)


def stop(command: Stop, known: Known) -> Refuse | Release:
    """A tombstone that is on disk is a promise: it is kept without waiting for a session."""
    promised = known.replayed and known.tomb >= command.epoch
    refused = None if promised else session(command, known.session)
    if refused:
        return refused
    if command.epoch <= known.tomb:
        return Release(why=f"epoch {command.epoch} was released here earlier")
    if known.present is not None and known.present.epoch > command.epoch:
        why = f"a domain of epoch {known.present.epoch} is on the node"
        return Refuse(reason=RefusalReason.OTHER_EPOCH_PRESENT, why=why)
    if known.ran is not None and known.ran.epoch > command.epoch:
        why = f"epoch {known.ran.epoch} was executed here already"
        return Refuse(reason=RefusalReason.OLD_EPOCH, why=why)
    return Release(why="all checks passed")


def destroy(command: Destroy, known: Known) -> Refuse | Release:
    promised = known.replayed and known.tomb >= command.epoch
    refused = None if promised else session(command, known.session)
    return refused or Release(why=f"epochs up to {command.epoch} are superseded")
