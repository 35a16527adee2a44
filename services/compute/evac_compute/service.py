"""The composition root: the one module that puts the daemon's parts together.

Stopping the daemon touches no guest and says nothing: its tasks are dropped, the journal is
closed, and the next daemon goes on from there.
"""

from __future__ import annotations

import asyncio
import functools

from evac_common.bus.port import Bus
from evac_common.bus.topology import command_queue
from evac_common.messages.commands import OfInstance, Session
from evac_common.service.clock import Clock
from evac_common.service.notify import notify
from evac_common.service.periodic import periodically
from evac_common.service.supervise import run_service
from evac_compute.actions import Actions
from evac_compute.core import recovery
from evac_compute.core.record import Pending
from evac_compute.handlers import Commands
from evac_compute.lanes import Lanes
from evac_compute.loops import Heart, Look, Registration, Reports, hear_events
from evac_compute.ports import Hypervisor, HypervisorEvent, Identity, Journal
from evac_compute.sessions import Sessions
from evac_compute.settings import Settings
from evac_compute.state import Node


class Daemon:
    """The parts, and what they hand to one another."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        bus: Bus,
        hypervisor: Hypervisor,
        journal: Journal,
        identity: Identity,
    ) -> None:
        self.node = Node(identity=identity, journal=journal, clock=clock)
        changes = recovery.boot(self.node.recorded, identity.boot_id)
        if changes:
            self.node.write(*changes)
        self.lanes = Lanes(actions_max=settings.actions_max, log=self.node.log)
        self.actions = Actions(self.node, hypervisor, retry_s=settings.hypervisor_retry_s)
        self.sessions = Sessions(
            self.node,
            hypervisor,
            self.lanes,
            retry_s=settings.hypervisor_retry_s,
            on_applied=self._replay_waiting,
        )
        self.commands = Commands(self.node, self.carry_out)
        self.registration = Registration(self.node, hypervisor, bus)
        self.heart = Heart(self.node, bus, reregister_after_s=settings.reregister_after_s)
        self.reports = Reports(self.node, bus)
        self.look = Look(self.node, hypervisor, bus, self.lanes, self.actions, self.sessions)
        self.events: asyncio.Queue[HypervisorEvent] = asyncio.Queue()
        hypervisor.subscribe(self.events.put_nowait)
        self._waiting: list[Pending] = []

    def carry_out(self, pending: Pending, *, replayed: bool = False) -> None:
        """Take over a journalled command."""
        command = pending.command
        if isinstance(command, Session):
            self.sessions.offer(pending)
        else:
            assert isinstance(command, OfInstance), "every other command is about one instance"
            work = functools.partial(self.actions.carry_out, pending, replayed=replayed)
            self.lanes.submit(command.instance_id, work)

    def replay(self) -> None:
        """Go on with what the last daemon left: promises at once, the rest when a session is
        applied.
        """
        for pending in self.node.recorded.pending.values():
            command = pending.command
            tomb = (
                self.node.recorded.tomb(command.instance_id)
                if isinstance(command, OfInstance)
                else 0
            )
            if recovery.waits_for_session(pending, tomb):
                self._waiting.append(pending)
            else:
                self.carry_out(pending, replayed=True)

    def _replay_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for pending in waiting:
            self.carry_out(pending, replayed=True)


async def serve(
    settings: Settings,
    *,
    clock: Clock,
    bus: Bus,
    hypervisor: Hypervisor,
    journal: Journal,
    identity: Identity,
    stop: asyncio.Event,
) -> None:
    """Run the daemon until `stop` is set."""
    daemon = Daemon(
        settings,
        clock=clock,
        bus=bus,
        hypervisor=hypervisor,
        journal=journal,
        identity=identity,
    )
    node = daemon.node
    node.log.info("daemon starts", incarnation=node.recorded.incarnation)
    daemon.replay()
    queue = command_queue(identity.node_id).name
    consumer = await bus.consume(queue, daemon.commands, prefetch=settings.prefetch)
    every = functools.partial(periodically, clock=clock, log=node.log)
    notify("READY=1")
    try:
        await run_service(
            "compute",
            {
                "bus": bus.run(),
                "register": every(
                    "register",
                    settings.register_interval_s,
                    daemon.registration.step,
                    wake=node.wake_register,
                ),
                "beat": every("beat", settings.heartbeat_interval_s, daemon.heart.step),
                "send reports": every(
                    "send reports",
                    settings.report_retry_s,
                    daemon.reports.step,
                    wake=node.wake_outbox,
                ),
                "look at reality": every(
                    "look at reality",
                    settings.inventory_interval_s,
                    daemon.look.step,
                    wake=node.wake_look,
                ),
                "apply sessions": daemon.sessions.run(),
                "hear the hypervisor": hear_events(node, daemon.events, daemon.look),
            },
            stop,
        )
    finally:
        await daemon.lanes.close()
        await consumer.cancel()
