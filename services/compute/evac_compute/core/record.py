"""What the node's journal says, and the changes that may be written into it.

Every adapter of the journal stores exactly the changes declared here, and the daemon keeps the same
changes in memory through `Recorded.apply`. What must never go back (incarnation, term, tombstones,
runs of an epoch) is guarded here and once more by the adapter that writes to disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from evac_common.messages.commands import Command
from evac_common.messages.reports import Report


class RunState(StrEnum):
    BEGUN = "begun"  # written before the hypervisor is asked: it may run, or not
    STARTED = "started"  # it executed; its end has not been reported
    ENDED = "ended"  # reported as failed or exited: only a higher run may execute


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """The last run that this incarnation executed of an instance."""

    epoch: int
    run: int
    state: RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A command that was taken over from the bus and is not settled yet."""

    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsent:
    """A report that the bus has not confirmed yet."""

    message_id: str
    at: datetime
    report: Report


# --- changes -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class IncarnationRaised:
    """A new life of the node: runs and commands of the earlier one mean nothing any more."""

    incarnation: int
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TermSeen:
    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TermApplied:
    """A session of this term was applied, with all that it asks for."""

    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenDead:
    """This incarnation was proven dead: nothing starts in it any more, whatever comes later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A tombstone: epochs up to this one never run here again."""

    instance_id: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMarked:
    instance_id: str
    epoch: int
    run: int
    state: RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    command_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    message_id: str
    at: datetime
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    message_id: str


Change = (
    IncarnationRaised
    | TermSeen
    | TermApplied
    | ProvenDead
    | Released
    | RunMarked
    | Accepted
    | Settled
    | Reported
    | Sent
)


class WentBack(AssertionError):
    """A change would take the journal back in time: a defect of the daemon."""


@dataclass(slots=True, kw_only=True)
class Recorded:
    """The journal as one value."""

    incarnation: int = 0  # 0: this node never ran
    boot_id: str = ""
    term_seen: int = 0
    term_applied: int = 0
    proven_dead: bool = False
    tombs: dict[str, int] = field(default_factory=dict)
    runs: dict[str, Ran] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)  # by command id, oldest first
    unsent: dict[str, Unsent] = field(default_factory=dict)  # by message id, oldest first

    def tomb(self, instance_id: str) -> int:
        """Highest released epoch; 0: none."""
        return self.tombs.get(instance_id, 0)

    def apply(self, change: Change) -> None:
        """Make one change. Raises WentBack for one that would undo a promise."""
        match change:
            case IncarnationRaised():
                self._raise_incarnation(change)
            case TermSeen():
                if change.term < self.term_seen:
                    raise WentBack(f"term {change.term} after {self.term_seen}")
                self.term_seen = change.term
            case TermApplied():
                self.term_applied = max(self.term_applied, change.term)
            case ProvenDead():
                self.proven_dead = True
            case Released():
                self._release(change)
            case RunMarked():
                self._mark_run(change)
            case Accepted():
                self.pending.setdefault(
                    change.command.command_id,
                    Pending(command=change.command),
                )
            case Settled():
                self.pending.pop(change.command_id, None)
            case Reported():
                self.unsent[change.message_id] = Unsent(
                    message_id=change.message_id, at=change.at, report=change.report
                )
            case Sent():
                self.unsent.pop(change.message_id, None)
            case _:
                assert_never(change)

    def _raise_incarnation(self, change: IncarnationRaised) -> None:
        if change.incarnation <= self.incarnation:
            raise WentBack(f"incarnation {change.incarnation} after {self.incarnation}")
        self.incarnation, self.boot_id = change.incarnation, change.boot_id
        self.proven_dead = False
        self.runs.clear()
        self.pending.clear()

    def _release(self, change: Released) -> None:
        self.tombs[change.instance_id] = max(self.tomb(change.instance_id), change.epoch)
        ran = self.runs.get(change.instance_id)
        if ran is not None and ran.epoch <= change.epoch:
            del self.runs[change.instance_id]

    def _mark_run(self, change: RunMarked) -> None:
        ran = self.runs.get(change.instance_id)
        if change.epoch <= self.tomb(change.instance_id):
            raise WentBack(f"a run of epoch {change.epoch}, which is released")
        if ran is not None and (change.epoch, change.run) < (ran.epoch, ran.run):
            raise WentBack(f"run {change.epoch}.{change.run} after {ran.epoch}.{ran.run}")
        self.runs[change.instance_id] = Ran(epoch=change.epoch, run=change.run, state=change.state)
