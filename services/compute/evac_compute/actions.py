"""Carry out what the core decided about one instance. Runs in the instance's lane, one at a time.

The order of writes is the protocol: a run is journalled before the hypervisor is asked, a tombstone
before anything is ended, an outcome together with its report. A daemon that is killed between any
two of these steps finds its way from the journal and the hypervisor alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar, assert_never

from prometheus_client import Counter

from evac_common.messages.commands import Destroy, OfInstance, Start, Stop
from evac_common.messages.reports import (
    CommandRefused,
    Destroyed,
    Exited,
    Started,
    StartErrorKind,
    StartFailed,
    StartRefused,
    Stopped,
)
from evac_compute.core import checks, recovery
from evac_compute.core.record import Change, Pending, Released, RunMarked, RunState, Settled
from evac_compute.ports import (
    Domain,
    Hypervisor,
    HypervisorUnreachable,
    JournalUnavailable,
    StartError,
)
from evac_compute.state import Node, shown

COMMANDS = Counter(
    "evac_compute_commands_total", "Commands, by what became of them.", ["verb", "outcome"]
)

#: This node will never run such a start: it releases the epoch, so that another node gets its turn.
NEVER_HERE = frozenset(
    {
        StartErrorKind.INVALID,
        StartErrorKind.CAPACITY,
        StartErrorKind.NETWORK,
        StartErrorKind.STORAGE,
    }
)
DETAIL_MAX = 2000
#: Seconds. That a domain is gone may be seen before the event about it arrives, and only the event
#: tells why; after this long none will come (events are missed while nobody listens).
EVENT_LATE_S = 1.0
CLOCK_FUZZ_S = 0.001  # a timer may be early by less, and would be set again and again

Result = TypeVar("Result")


class Actions:
    def __init__(self, node: Node, hypervisor: Hypervisor, *, retry_s: float) -> None:
        self._node = node
        self._hypervisor = hypervisor
        self._retry_s = retry_s
        self._absent: dict[str, tuple[int, int, float]] = {}  # epoch, run, seen to be gone since

    async def carry_out(self, pending: Pending, *, replayed: bool, taken_s: float) -> None:
        """Check the command, act, report. Ends when it is settled in the journal.

        `taken_s`: when it was taken over, on the daemon's monotonic clock.

        While the journal takes nothing it is tried again, as after a restart: look first, then
        decide.
        """
        told = False
        while True:
            try:
                return await self._once(pending, replayed=replayed, taken_s=taken_s)
            except JournalUnavailable as error:
                if not told:
                    self._node.log.error("journal takes nothing", why=str(error))
                told = replayed = True
            except Exception:
                # A defect. Kept as pending, the command would be acknowledged and never looked at
                # until the daemon restarts; forgotten, it comes again and is a new try.
                await self._forget(pending)
                raise
            await asyncio.sleep(self._retry_s)

    async def _forget(self, pending: Pending) -> None:
        while True:
            try:
                return self._node.write(Settled(command_id=pending.command.command_id))
            except JournalUnavailable:
                await asyncio.sleep(self._retry_s)

    async def _once(self, pending: Pending, *, replayed: bool, taken_s: float) -> None:
        command = pending.command
        match command:
            case Start():
                await self._start(command, replayed=replayed, taken_s=taken_s)
            case Stop():
                await self._stop(command, replayed=replayed)
            case Destroy():
                await self._destroy(command, replayed=replayed)
            case _:
                raise TypeError(f"{command.name} is not about one instance")

    # --- start ---------------------------------------------------------------------------------

    async def _start(self, command: Start, *, replayed: bool, taken_s: float) -> None:
        unreachable = ""
        present: Domain | None = None
        try:
            present = await self._hypervisor.find(command.instance_id)
        except HypervisorUnreachable as error:
            unreachable = str(error)
        waited_s = self._node.clock.monotonic() - taken_s
        known = self._node.known(
            command.instance_id,
            present,
            replayed=replayed,
            now=checks.sender_now(command, waited_s=waited_s),
        )
        decision = checks.start(command, known)
        match decision:
            case checks.Refuse():
                self._refuse(command, decision)
            case checks.SayReleased():
                await self._gone(command.instance_id, command.epoch)
                self._say_refused(command, StartErrorKind.RELEASED, decision.why)
            case checks.SayStarted():
                self._say_started(command, decision.why)
            case checks.SayFailed():
                self._fail(command, StartErrorKind.HYPERVISOR, unreachable or decision.why)
            case checks.Execute() if unreachable:
                self._fail(command, StartErrorKind.HYPERVISOR, unreachable)
            case checks.Execute():
                await self._execute(command, decision)
            case _:
                assert_never(decision)

    async def _execute(self, command: Start, decision: checks.Execute) -> None:
        node = self._node
        node.write(self._marked(command, RunState.BEGUN))
        node.log.info(
            "starting instance",
            instance=command.spec.name,
            instance_id=command.instance_id,
            epoch=command.epoch,
            run=command.run,
            why=decision.why,
        )
        try:
            if decision.clear:
                await self._hypervisor.destroy(command.instance_id, epoch=command.epoch)
            await self._hypervisor.start(
                command.spec,
                instance_id=command.instance_id,
                epoch=command.epoch,
                run=command.run,
                gen=command.gen,
            )
        except StartError as error:
            if error.kind in NEVER_HERE:
                self._say_refused(command, error.kind, error.detail)
            else:
                self._fail(command, error.kind, error.detail)
        except HypervisorUnreachable as error:
            self._fail(command, StartErrorKind.HYPERVISOR, f"outcome unknown: {error}")
        else:
            self._say_started(command, decision.why)

    def _marked(self, command: Start, state: RunState) -> RunMarked:
        return RunMarked(
            instance_id=command.instance_id, epoch=command.epoch, run=command.run, state=state
        )

    def _say_started(self, command: Start, why: str) -> None:
        self._settle(
            command,
            "started",
            why,
            self._marked(command, RunState.STARTED),
            self._node.report(
                Started,
                command=command,
                instance_id=command.instance_id,
                epoch=command.epoch,
                run=command.run,
            ),
        )

    def _fail(self, command: Start, kind: StartErrorKind, detail: str) -> None:
        """The epoch is kept and this run is spent. Frees nothing."""
        self._settle(
            command,
            "start_failed",
            detail,
            self._marked(command, RunState.ENDED),
            self._node.report(
                StartFailed,
                command=command,
                instance_id=command.instance_id,
                epoch=command.epoch,
                run=command.run,
                kind=kind,
                detail=detail[:DETAIL_MAX],
            ),
        )

    def _say_refused(self, command: Start, kind: StartErrorKind, detail: str) -> None:
        """The tombstone and the report that releases the epoch are one write."""
        self._settle(
            command,
            "start_refused",
            detail,
            Released(instance_id=command.instance_id, epoch=command.epoch),
            self._node.report(
                StartRefused,
                command=command,
                instance_id=command.instance_id,
                epoch=command.epoch,
                kind=kind,
                detail=detail[:DETAIL_MAX],
            ),
        )
        # Not before: the inventory says it to the scheduler, and that is a proof.
        self._node.remember_released(command.instance_id, command.epoch)

    # --- stop and destroy ----------------------------------------------------------------------

    async def _stop(self, command: Stop, *, replayed: bool) -> None:
        present = await self._patiently(lambda: self._hypervisor.find(command.instance_id))
        known = self._node.known(command.instance_id, present, replayed=replayed)
        decision = checks.stop(command, known)
        if isinstance(decision, checks.Refuse):
            self._refuse(command, decision)
            return
        self._bury(command)
        await self._patiently(
            lambda: self._hypervisor.stop(
                command.instance_id, epoch=command.epoch, grace_s=command.grace_s
            )
        )
        await self._gone(command.instance_id, command.epoch)
        self._node.remember_released(command.instance_id, command.epoch)
        report = self._node.report(
            Stopped, command=command, instance_id=command.instance_id, epoch=command.epoch
        )
        self._settle(command, "stopped", decision.why, report)

    async def _destroy(self, command: Destroy, *, replayed: bool) -> None:
        known = self._node.known(command.instance_id, None, replayed=replayed)
        decision = checks.destroy(command, known)
        if isinstance(decision, checks.Refuse):
            self._refuse(command, decision)
            return
        self._bury(command)
        await self._gone(command.instance_id, command.epoch)
        report = self._node.report(
            Destroyed, command=command, instance_id=command.instance_id, epoch=command.epoch
        )
        self._settle(command, "destroyed", decision.why, report)

    def _bury(self, command: OfInstance) -> None:
        if self._node.recorded.tomb(command.instance_id) < command.epoch:
            self._node.write(Released(instance_id=command.instance_id, epoch=command.epoch))

    async def _gone(self, instance_id: str, epoch: int) -> None:
        """End whatever of this epoch or an older one is there, and look again until nothing is."""

        async def end() -> None:
            domain = await self._hypervisor.find(instance_id)
            if domain is not None and 0 < domain.epoch <= epoch:
                await self._hypervisor.destroy(instance_id, epoch=epoch)
                if await self._hypervisor.find(instance_id) == domain:
                    raise HypervisorUnreachable("the domain was ended and is still there")

        await self._patiently(end)

    # --- reality -------------------------------------------------------------------------------

    async def reconcile(self, instance_id: str) -> float:
        """Say what happened to this instance while no command was being carried out for it.

        Returns in how many seconds to come again, unless an event is earlier; 0: no need to.
        """
        node = self._node
        try:
            domain = await self._hypervisor.find(instance_id)
        except HypervisorUnreachable:
            return 0.0  # the next look, after the hypervisor is back, comes here again
        ran = node.recorded.runs.get(instance_id)
        end = node.ends.get(instance_id)
        seen = end[2] if end and ran and end[:2] == (ran.epoch, ran.run) else None
        found = recovery.difference(node.recorded.tomb(instance_id), ran, shown(domain), seen)
        match found:
            case None:
                node.ends.pop(instance_id, None)
                self._absent.pop(instance_id, None)
            case recovery.LeftOver():
                node.log.warning("ending a domain of a released epoch", instance_id=instance_id)
                await self._gone(instance_id, found.epoch)
            case recovery.Appeared():
                self._note_appeared(instance_id, found)
            case recovery.Abandoned() if node.session is not None:
                await self._clear_away(instance_id, found)
            case recovery.Ended() if node.session is not None:
                left_s = 0.0 if seen else self._event_due_s(instance_id, found)
                if left_s > 0:
                    return left_s
                self._say_exited(instance_id, found)
            case recovery.Ended() | recovery.Abandoned():
                pass  # as soon as the node is in a session again
            case _:
                assert_never(found)
        return 0.0

    async def _clear_away(self, instance_id: str, found: recovery.Abandoned) -> None:
        """Not patiently: a command for this instance must not wait behind it."""
        self._node.log.warning("ending what a failed start left", instance_id=instance_id)
        try:
            await self._hypervisor.discard(instance_id, epoch=found.epoch, run=found.run)
        except HypervisorUnreachable as error:
            # The next look comes here again.
            self._node.log.warning("hypervisor does not answer", why=str(error))
        else:
            self._node.wake_look.set()

    def _event_due_s(self, instance_id: str, found: recovery.Ended) -> float:
        """For how long an event may still tell why this run ended; counted from the first look."""
        now_s = self._node.clock.monotonic()
        epoch, run, since_s = self._absent.get(instance_id, (0, 0, now_s))
        if (epoch, run) != (found.epoch, found.run):
            since_s = now_s
        self._absent[instance_id] = found.epoch, found.run, since_s
        left_s = since_s + EVENT_LATE_S - now_s
        return left_s if left_s > CLOCK_FUZZ_S else 0.0

    def _say_exited(self, instance_id: str, found: recovery.Ended) -> None:
        node = self._node
        node.ends.pop(instance_id, None)
        self._absent.pop(instance_id, None)
        node.log.info(
            "instance exited", instance_id=instance_id, epoch=found.epoch, why=found.reason.value
        )
        node.write(
            RunMarked(
                instance_id=instance_id, epoch=found.epoch, run=found.run, state=RunState.ENDED
            ),
            node.report(
                Exited,
                instance_id=instance_id,
                epoch=found.epoch,
                run=found.run,
                reason=found.reason,
            ),
        )
        node.wake_look.set()

    def _note_appeared(self, instance_id: str, found: recovery.Appeared) -> None:
        """At once: it executes, so it must not look like something that a failed start left.

        Said in a session only; later the inventory says it.
        """
        node, epoch, run = self._node, found.epoch, found.run
        node.log.warning("a start that seemed to fail succeeded", instance_id=instance_id)
        started = RunMarked(instance_id=instance_id, epoch=epoch, run=run, state=RunState.STARTED)
        if node.session is None:
            node.write(started)
        else:
            report = node.report(Started, instance_id=instance_id, epoch=epoch, run=run)
            node.write(started, report)
        node.wake_look.set()

    # --- shared --------------------------------------------------------------------------------

    def _refuse(self, command: OfInstance, refusal: checks.Refuse) -> None:
        changes: list[Change] = []
        ran = self._node.recorded.runs.get(command.instance_id)
        if (
            isinstance(command, Start)
            and ran is not None
            and ran.state is RunState.BEGUN
            and (ran.epoch, ran.run) == (command.epoch, command.run)
        ):
            # Begun before the daemon ended, not to be finished now: it must not look as if it ran.
            changes.append(self._marked(command, RunState.ENDED))
        changes.append(
            self._node.report(
                CommandRefused,
                command_id=command.command_id,
                verb=command.name,
                instance_id=command.instance_id,
                epoch=command.epoch,
                reason=refusal.reason,
                detail=refusal.why[:DETAIL_MAX],
            )
        )
        self._settle(command, "refused", refusal.why, *changes)

    def _settle(self, command: OfInstance, outcome: str, why: str, *changes: Change) -> None:
        node = self._node
        node.write(Settled(command_id=command.command_id), *changes)
        COMMANDS.labels(command.name, outcome).inc()
        node.log.info(
            "command settled",
            command_id=command.command_id,
            instance_id=command.instance_id,
            epoch=command.epoch,
            state=outcome,
            why=why,
        )
        node.wake_look.set()

    async def _patiently(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Ask until the hypervisor answers: a promise on disk is kept, however long it takes."""
        told = False
        while True:
            try:
                return await call()
            except HypervisorUnreachable as error:
                if not told:
                    self._node.log.warning("hypervisor does not answer", why=str(error))
                told = True
            await asyncio.sleep(self._retry_s)
