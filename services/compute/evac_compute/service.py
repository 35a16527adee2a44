"""The composition root: the one module that puts the daemon's parts together.

Stopping the daemon touches no guest and says nothing: its tasks are dropped, the journal is
closed, and the next daemon goes on from there. That the machine itself shuts down is another thing,
and said otherwise (SIGUSR1): then the guests are stopped and released first.
"""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Coroutine
from typing import Any, Protocol

from evac_common.bus.port import Bus, Consumer
from evac_common.bus.rabbitmq import RabbitBus
from evac_common.bus.timings import BusTimings
from evac_common.bus.topology import command_queue
from evac_common.errors import SettingsRefused
from evac_common.messages.commands import OfInstance, Session
from evac_common.service.clock import Clock, SystemClock
from evac_common.service.health import serve_health
from evac_common.service.notify import notify
from evac_common.service.periodic import periodically
from evac_common.service.supervise import run_service, stop_on_signals
from evac_compute.actions import Actions
from evac_compute.adapters.file_journal import FileJournal
from evac_compute.adapters.host import read_identity, read_node_file
from evac_compute.adapters.simulated.remote import RemoteHypervisor
from evac_compute.core import recovery
from evac_compute.core.record import Pending
from evac_compute.handlers import commands
from evac_compute.lanes import Lanes
from evac_compute.leaving import Leaving
from evac_compute.loops import Heart, Look, Registration, Reports, hear_events, note
from evac_compute.ports import Hypervisor, HypervisorEvent, Identity, Journal
from evac_compute.sessions import Sessions
from evac_compute.settings import Settings
from evac_compute.state import Node

Work = Coroutine[Any, Any, Any]

READY_S = 1.0
TELL_S = 2.0  # for the word that the machine shuts down, once everything else is done
IDLE_S = 60.0  # of loops that have nothing to do until they are woken
JOURNAL = "journal.sqlite"


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
        self.commands = commands(self.node, self.carry_out)
        self.registration = Registration(self.node, hypervisor, bus)
        self.heart = Heart(
            self.node,
            bus,
            reregister_after_s=settings.reregister_after_s,
            hypervisor_away_s=settings.hypervisor_away_s,
        )
        self.reports = Reports(self.node, bus)
        self.look = Look(self.node, hypervisor, bus, self.lanes, self.actions, self.sessions)
        self.events: asyncio.Queue[HypervisorEvent] = asyncio.Queue()
        hypervisor.subscribe(self._hear)
        self._waiting: list[Pending] = []

    def _hear(self, event: HypervisorEvent) -> None:
        note(self.node, event)
        self.events.put_nowait(event)

    def carry_out(self, pending: Pending, *, replayed: bool = False) -> None:
        """Take over a journalled command; a start's time to be carried out counts from here."""
        command = pending.command
        if isinstance(command, Session):
            self.sessions.offer(pending)
        else:
            assert isinstance(command, OfInstance), "every other command is about one instance"
            work = functools.partial(
                self.actions.carry_out,
                pending,
                replayed=replayed,
                taken_s=self.node.clock.monotonic(),
            )
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


class Readiness:
    """Why this node can do nothing now; systemd is told once when it can first do its work."""

    def __init__(self, node: Node, bus: Bus) -> None:
        self._node, self._bus = node, bus
        self.told = False

    @property
    def reasons(self) -> list[str]:
        reasons = []
        health = self._bus.health()
        if not health.connected:
            reasons.append(f"broker: {health.detail or 'not connected'}")
        if self._node.session is None:
            reasons.append("session: the monitor has given none yet")
        return reasons

    async def step(self) -> None:
        if not self.told and not self.reasons:
            self.told = True
            notify("READY=1")


async def serve(
    settings: Settings,
    *,
    clock: Clock,
    bus: Bus,
    hypervisor: Hypervisor,
    journal: Journal,
    identity: Identity,
    stop: asyncio.Event,
    leaving: asyncio.Event | None = None,
) -> None:
    """Run the daemon until `stop` is set. `leaving`: set when the machine shuts down in good order;
    then the daemon releases its guests and sets `stop` itself.
    """
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
    tasks = _loops(daemon, settings, bus, clock)
    tasks["leave"] = _leave(daemon, hypervisor, consumer, leaving or asyncio.Event(), stop)
    try:
        await run_service("compute", tasks, stop)
    finally:
        daemon.look.close()
        await daemon.lanes.close()
        await consumer.cancel()


def _loops(daemon: Daemon, settings: Settings, bus: Bus, clock: Clock) -> dict[str, Work]:
    """What runs again and again, by name."""
    node = daemon.node
    readiness = Readiness(node, bus)
    every = functools.partial(periodically, clock=clock, log=node.log)
    return {
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
            lambda: settings.report_retry_s if node.recorded.unsent else IDLE_S,
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
        "tell readiness": every(
            "readiness", lambda: IDLE_S if readiness.told else READY_S, readiness.step
        ),
        "serve health": serve_health(settings.health_port, lambda: readiness.reasons),
    }


async def _leave(
    daemon: Daemon,
    hypervisor: Hypervisor,
    consumer: Consumer,
    leaving: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    """When the machine shuts down: say so, take no command any more, release the guests, end.

    It is said at once and not when the next heartbeat is due, for until then the node is a target,
    and without guests the daemon would be gone before it. A broker that does not take it holds up
    nothing: the guests are stopped meanwhile, and at the end it has `TELL_S` more.
    """
    await leaving.wait()
    daemon.node.leaving = True
    telling = asyncio.create_task(daemon.heart.step(), name="say that the machine shuts down")
    try:
        await consumer.cancel()
        await Leaving(daemon.node, hypervisor, daemon.lanes).run()
        await asyncio.wait((telling,), timeout=TELL_S)
        if telling.done():
            telling.result()
    finally:
        telling.cancel()
    stop.set()
    await asyncio.Event().wait()


async def run(settings: Settings) -> None:
    """Run on the real broker, hypervisor and disk until SIGTERM or SIGINT; at SIGUSR1 the machine
    shuts down.
    """
    clock = SystemClock()
    stop = stop_on_signals()
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, leaving.set)
    node = read_node_file(settings.node_file)
    identity = read_identity(settings, node)
    timings = BusTimings(backoff_max_s=settings.reconnect_max_s)
    bus = RabbitBus(node.account_url(), clock=clock, timings=timings)
    hypervisor = open_hypervisor(settings)
    journal = FileJournal(settings.state_dir / JOURNAL)
    try:
        connection = asyncio.create_task(hypervisor.run(), name="hypervisor connection")
        try:
            await serve(
                settings,
                clock=clock,
                bus=bus,
                hypervisor=hypervisor,
                journal=journal,
                identity=identity,
                stop=stop,
                leaving=leaving,
            )
        finally:
            connection.cancel()
            await asyncio.gather(connection, return_exceptions=True)
    finally:
        journal.close()


class ConnectedHypervisor(Hypervisor, Protocol):
    """A hypervisor with a connection that `run` keeps, until cancelled."""

    async def run(self) -> None: ...


def open_hypervisor(settings: Settings) -> ConnectedHypervisor:
    """The hypervisor that the settings name. Raises SettingsRefused when its driver is missing."""
    if settings.simulated_socket is not None:
        return RemoteHypervisor(
            settings.simulated_socket,
            call_time_limit_s=settings.call_time_limit_s,
            start_time_limit_s=settings.start_time_limit_s,
            reconnect_max_s=settings.hypervisor_reconnect_max_s,
        )
    try:
        from evac_compute.adapters.libvirt_driver.domain_xml import DomainOptions
        from evac_compute.adapters.libvirt_driver.driver import LibvirtHypervisor
    except ImportError as error:
        raise SettingsRefused(
            f"hypervisor: {settings.hypervisor} needs libvirt's binding, pip install"
            f" 'evac-compute[libvirt]' ({error})"
        ) from error
    return LibvirtHypervisor(
        settings.hypervisor,
        options=DomainOptions(
            virt_type=settings.virt_type,
            disk_bus=settings.disk_bus,
            disk_cache=settings.disk_cache,
            machine=settings.machine,
            serial_dir=settings.serial_dir,
        ),
        call_time_limit_s=settings.call_time_limit_s,
        start_time_limit_s=settings.start_time_limit_s,
        threads=settings.hypervisor_threads,
        reconnect_max_s=settings.hypervisor_reconnect_max_s,
    )
