"""What the daemon knows while it lives: the journal's content, the session, who it is.

Handlers, loops and actions share one `Node`. Every change goes through `write`: first to the
journal, then to memory, so memory never promises what a crash would forget.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar

import structlog

from evac_common.bus.inbox import outgoing
from evac_common.bus.port import Outgoing
from evac_common.messages.codec import Envelope
from evac_common.messages.commands import Command
from evac_common.messages.heartbeats import TROUBLE_CHARACTERS_MAX
from evac_common.messages.registry import Message
from evac_common.messages.reports import InSession as InSessionReport
from evac_common.messages.reports import Report
from evac_common.model.states import ExitReason, Trouble
from evac_common.service.clock import Clock
from evac_common.service.periodic import Wake
from evac_compute.core.checks import InSession, Known, Present
from evac_compute.core.record import Change, Recorded, Reported
from evac_compute.ports import Domain, Identity, Journal

#: Released epochs that were lately asked about, repeated in the inventory.
RELEASED_REPEATED_MAX = 256

AnyReport = TypeVar("AnyReport", bound=Report)


class Node:
    def __init__(self, *, identity: Identity, journal: Journal, clock: Clock) -> None:
        self.identity = identity
        self.clock = clock
        self.log: Any = structlog.get_logger().bind(node=identity.name, node_id=identity.node_id)
        self.session: InSession | None = None
        self.asks = True  # registers until a session is applied
        self.ends: dict[str, tuple[int, int, ExitReason]] = {}  # seen, not reported yet
        self.released: dict[str, int] = {}  # newest last, at most RELEASED_REPEATED_MAX
        # Since when every look at the hypervisor failed, on our monotonic clock, and why; None: the
        # last one succeeded.
        self.hypervisor_away: tuple[float, str] | None = None
        self.leaving = False  # the machine shuts down: nothing more may be placed here
        self.wake_outbox = Wake()
        self.wake_look = Wake()
        self.wake_register = Wake()
        self._journal = journal
        self.recorded: Recorded = journal.load()

    def write(self, *changes: Change) -> None:
        """Journal and remember. Raises JournalUnavailable (nothing was changed)."""
        self._journal.write(changes)
        for change in changes:
            self.recorded.apply(change)
        if any(isinstance(change, Reported) for change in changes):
            self.wake_outbox.set()

    @property
    def term(self) -> int:
        """Term of the session; 0: none."""
        return self.session.gen.term if self.session else 0

    def hypervisor_failed(self, why: str) -> None:
        """A look at the hypervisor failed; the first failure of a row counts."""
        since_s = self.hypervisor_away[0] if self.hypervisor_away else self.clock.monotonic()
        self.hypervisor_away = since_s, why

    def hypervisor_answered(self) -> None:
        self.hypervisor_away = None

    def troubles(self, *, away_s: float) -> dict[str, str]:
        """What is wrong with this node, for its heartbeats; `away_s`: how long is too long.

        Nothing is said of storage: the hypervisor has no word for it yet.
        """
        told: dict[str, str] = {}
        if self.leaving:
            told[Trouble.SHUTTING_DOWN.value] = "its machine shuts down in good order"
        if self.hypervisor_away is not None:
            since_s, why = self.hypervisor_away
            lasts_s = self.clock.monotonic() - since_s
            if lasts_s >= away_s:
                sentence = f"the hypervisor has not answered for {lasts_s:.0f} s: {why}"
                told[Trouble.LIBVIRT.value] = sentence[:TROUBLE_CHARACTERS_MAX]
        return told

    def report(
        self, said: type[AnyReport], /, *, command: Command | None = None, **fields: Any
    ) -> Reported:
        """A report to be journalled. In no session (a promise kept late) the command's term is
        used.
        """
        if issubclass(said, InSessionReport):
            fields["term"] = self.term or (command.term if command else 0)
        report = said(
            node_id=self.identity.node_id, incarnation=self.recorded.incarnation, **fields
        )
        return Reported(message_id=self.clock.new_id(), at=self.clock.now(), report=report)

    def known(
        self,
        instance_id: str,
        present: Domain | None,
        *,
        replayed: bool,
        now: datetime | None = None,
    ) -> Known:
        """`now`: by the clock of a command with a deadline; unset: nothing is compared with it."""
        return Known(
            session=self.session,
            tomb=self.recorded.tomb(instance_id),
            ran=self.recorded.runs.get(instance_id),
            present=shown(present),
            now=now or self.clock.now(),
            replayed=replayed,
        )

    def remember_released(self, instance_id: str, epoch: int) -> None:
        self.released.pop(instance_id, None)
        self.released[instance_id] = epoch
        while len(self.released) > RELEASED_REPEATED_MAX:
            del self.released[next(iter(self.released))]

    def outgoing(
        self, message: Message, *, message_id: str | None = None, at: datetime | None = None
    ) -> Outgoing:
        envelope = Envelope(
            id=message_id or self.clock.new_id(),
            source=f"/evac/compute/{self.identity.name}",
            time=at or self.clock.now(),
        )
        return outgoing(message, envelope)


def shown(domain: Domain | None) -> Present | None:
    """A domain as the core sees it."""
    if domain is None:
        return None
    return Present(epoch=domain.epoch, run=domain.run, running=domain.running)


def by_instance(domains: Iterable[Domain]) -> dict[str, Present]:
    return {
        domain.instance_id: Present(epoch=domain.epoch, run=domain.run, running=domain.running)
        for domain in domains
    }
