"""Apply a session: release and end what was taken away, name what nobody allowed, start nothing."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import replace

from evac_common.errors import Retryable
from evac_common.messages.commands import Session
from evac_common.messages.reports import CommandRefused, SessionApplied, Stopped
from evac_compute.core import checks, contract
from evac_compute.core.checks import InSession, Present
from evac_compute.core.record import (
    Change,
    IncarnationRaised,
    Pending,
    ProvenDead,
    Released,
    Settled,
    TermApplied,
    TermSeen,
)
from evac_compute.lanes import Lanes
from evac_compute.ports import Hypervisor, HypervisorUnreachable
from evac_compute.state import Node, by_instance


class Sessions:
    """The newest session offered is applied; one that is overtaken while it waits is dropped.

    `on_applied` is called after each session that was applied.
    """

    def __init__(
        self,
        node: Node,
        hypervisor: Hypervisor,
        lanes: Lanes,
        *,
        retry_s: float,
        on_applied: Callable[[], None],
    ) -> None:
        self._node = node
        self._hypervisor = hypervisor
        self._lanes = lanes
        self._retry_s = retry_s
        self._on_applied = on_applied
        self._offered: Pending | None = None
        self._leaving = False  # the term of the last session is over, its work is not yet
        self._event = asyncio.Event()

    def offer(self, pending: Pending) -> None:
        self._offered = pending
        self._event.set()

    async def run(self) -> None:
        """Apply what is offered, for ever."""
        told = False
        while True:
            await self._event.wait()
            self._event.clear()
            offered = self._offered
            if offered is None:
                continue
            try:
                await self._apply(offered)
            except Retryable as error:
                if not told:
                    self._node.log.warning("session waits", why=str(error))
                told = True
                await asyncio.sleep(self._retry_s)
                self._event.set()
            else:
                told = False
                if self._offered is offered:
                    self._offered = None

    async def _apply(self, pending: Pending) -> None:
        command, node = pending.command, self._node
        assert isinstance(command, Session), "only sessions are offered"
        refused = checks.new_session(
            command,
            incarnation=node.recorded.incarnation,
            boot_id=node.recorded.boot_id,
            term_seen=node.recorded.term_seen,
        )
        if refused:
            self._refuse(command, refused)
            return
        await self._leave_earlier_term(command)
        node.write(TermSeen(term=command.term), *([ProvenDead()] if command.proven_dead else []))
        plan = await self._carry_out(command)
        # Once proven dead, always: an older session that comes late does not change that.
        node.session = InSession(gen=command.gen, proven_dead=node.recorded.proven_dead)
        node.asks = node.recorded.proven_dead  # asks again until it is empty
        node.write(
            *self._overtaken(),
            Settled(command_id=command.command_id),
            TermApplied(term=command.term),
            node.report(
                SessionApplied, destroyed=list(plan.destroy), quarantined=list(plan.quarantine)
            ),
            *(
                node.report(Stopped, instance_id=instance_id, epoch=epoch)
                for instance_id, epoch in plan.over.items()
            ),
        )
        node.log.info(
            "session applied",
            term=command.term,
            incarnation=command.incarnation,
            allowed=len(command.allowed),
            destroyed=len(plan.destroy),
            quarantined=len(plan.quarantine),
            released_again=len(plan.over),
            proven_dead=node.recorded.proven_dead,
        )
        self._on_applied()
        node.wake_look.set()

    async def _leave_earlier_term(self, command: Session) -> None:
        """Obey nothing of the earlier term any more, and end what it began.

        A term rises when the controllers' memory may have gone back in time. What this node shows
        in the new one is all they learn of the past, so a start must not come to life behind it.
        """
        node = self._node
        if node.session is not None and node.session.gen.term != command.term:
            node.session = None
            self._leaving = True
        if self._leaving:
            await self._lanes.quiet()
            self._leaving = False

    async def _carry_out(self, command: Session) -> contract.Plan:
        """End what the contract names. Raises HypervisorUnreachable while that is not certain."""
        node = self._node
        plan = self._plan(command, await self._domains())
        if plan.release:
            node.write(
                *(Released(instance_id=name, epoch=epoch) for name, epoch in plan.release.items())
            )
        for instance_id, why in plan.destroy.items():
            node.log.warning("ending a domain", instance_id=instance_id, why=why)
            await self._lanes.do(instance_id, functools.partial(self._end, instance_id))
        left = self._plan(command, await self._domains())
        if left.destroy:
            raise HypervisorUnreachable(
                "domains were ended and are still there", left=len(left.destroy)
            )
        return replace(plan, quarantine=left.quarantine)

    async def _end(self, instance_id: str) -> None:
        await self._hypervisor.destroy(instance_id, epoch=self._node.recorded.tomb(instance_id))

    def _plan(self, command: Session, domains: dict[str, Present]) -> contract.Plan:
        recorded = self._node.recorded
        return contract.plan(
            command.allowed,
            command.superseded,
            recorded.tombs,
            domains,
            first_of_term=command.term > recorded.term_applied,
        )

    async def _domains(self) -> dict[str, Present]:
        return by_instance(await self._hypervisor.domains())

    def _overtaken(self) -> list[Change]:
        """Sessions that came earlier and were never applied."""
        return [
            Settled(command_id=command_id)
            for command_id, pending in self._node.recorded.pending.items()
            if isinstance(pending.command, Session)
            and (self._offered is None or command_id != self._offered.command.command_id)
        ]

    def _refuse(self, command: Session, refused: checks.Refuse) -> None:
        self._node.log.warning("session refused", why=refused.why, term=command.term)
        if command.term > self._node.recorded.term_seen:
            # The controllers' memory went back to an earlier life of this node: tell them.
            self._node.asks = True
            self._node.wake_register.set()
        self._node.write(
            Settled(command_id=command.command_id),
            self._node.report(
                CommandRefused,
                command_id=command.command_id,
                verb=command.name,
                reason=refused.reason,
                detail=refused.why,
            ),
        )

    def rejoin_if_empty(self, domains: int, mark: int) -> None:
        """Told that it is proven dead, and with nothing left: begin a new life and ask for a
        session.

        `domains`: how many a look begun at the lanes' `mark` found. Work that ended during the look
        may have left a domain that it does not show: then the next look decides.
        """
        node = self._node
        if not node.recorded.proven_dead:
            return
        if domains or not self._lanes.idle or self._lanes.mark() != mark:
            return
        if self._offered is not None:
            return
        incarnation = node.recorded.incarnation + 1
        node.session = None
        node.asks = True
        node.write(IncarnationRaised(incarnation=incarnation, boot_id=node.recorded.boot_id))
        node.log.warning("proven dead and empty: begins a new incarnation", incarnation=incarnation)
        node.wake_register.set()
