"""What a daemon that starts owes to its journal, and what differs between journal and reality."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from evac_common.messages.commands import Session, Stop
from evac_common.model.states import ExitReason
from evac_compute.core.checks import Present
from evac_compute.core.record import (
    Change,
    IncarnationRaised,
    Pending,
    Ran,
    Recorded,
    RunState,
    Settled,
)


def boot(recorded: Recorded, boot_id: str) -> tuple[Change, ...]:
    """A boot of the machine is a new incarnation; a restart of the daemon is not."""
    if recorded.incarnation and recorded.boot_id == boot_id:
        # Sessions are given again to whoever registers; an old one must not be applied late.
        return tuple(
            Settled(command_id=command_id)
            for command_id, pending in recorded.pending.items()
            if isinstance(pending.command, Session)
        )
    return (IncarnationRaised(incarnation=recorded.incarnation + 1, boot_id=boot_id),)


def waits_for_session(pending: Pending, tomb: int) -> bool:
    """Must a replayed command wait until the node is in a session again?

    Meanwhile the node may have been proven dead, so nothing starts before. A stop whose tombstone
    is on disk is only carried to its end.
    """
    command = pending.command
    return not (isinstance(command, Stop) and command.epoch <= tomb)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A run of which the journal says that it executes does not: its end is to be reported."""

    epoch: int
    run: int
    reason: ExitReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Appeared:
    """A run whose start seemed to have failed executes after all."""

    epoch: int
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOver:
    """A domain of an epoch that this node has released: it must go."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """A domain that does not execute, of exactly the run that the journal calls over: it must go.

    Its start failed or was given up while the hypervisor still built it. The next run here would
    clear it away; but the next run may be elsewhere, and nothing is started beside a domain that
    the ledger does not explain.
    """

    epoch: int
    run: int


Difference = Ended | Appeared | LeftOver | Abandoned


def difference(
    tomb: int, ran: Ran | None, present: Present | None, seen_to_end: ExitReason | None
) -> Difference | None:
    """What must be said or done about one instance that no command is being carried out for."""
    if present is not None and 0 < present.epoch <= tomb:
        return LeftOver(epoch=present.epoch)
    if ran is None:
        return None
    if present is None or present.epoch != ran.epoch:
        if ran.state is RunState.STARTED:
            return Ended(epoch=ran.epoch, run=ran.run, reason=seen_to_end or ExitReason.LOST)
        return None
    if ran.state is not RunState.ENDED:
        return None
    if present.running:
        return Appeared(epoch=ran.epoch, run=ran.run)
    return Abandoned(epoch=ran.epoch, run=ran.run) if present.run == ran.run else None


def differences(
    recorded: Recorded, domains: Mapping[str, Present], busy: Collection[str]
) -> tuple[str, ...]:
    """Instances where journal and reality differ, in the order of ids."""
    ids = sorted({*domains, *recorded.runs})
    return tuple(
        instance_id
        for instance_id in ids
        if instance_id not in busy
        and difference(
            recorded.tomb(instance_id),
            recorded.runs.get(instance_id),
            domains.get(instance_id),
            None,
        )
        is not None
    )
