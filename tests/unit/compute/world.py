"""A node on virtual time: the daemon's real code on the embedded bus.

Both controllers are played by hand, so that a test says exactly what they say and sees exactly what
the node reports.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from evac_common.bus.embedded import EmbeddedBroker, EmbeddedBus, EmbeddedState, Link
from evac_common.bus.permissions import node_permissions
from evac_common.bus.port import Delivery, Outgoing, Verdict
from evac_common.bus.topology import (
    CONTROLLER_QUEUES,
    MONITOR_REPORTS,
    SCHEDULER_REPORTS,
    command_queue,
    heartbeat_queue,
)
from evac_common.messages.codec import Envelope, decode, encode
from evac_common.messages.commands import Command, Destroy, InstanceSpec, Session, Start, Stop
from evac_common.messages.heartbeats import Heartbeat
from evac_common.messages.registry import Message
from evac_common.messages.reports import Inventory, Registered, Report, SessionApplied
from evac_common.model.identity import MONITOR_USER, SCHEDULER_USER, node_user
from evac_compute.adapters.memory_journal import MemoryJournal
from evac_compute.adapters.simulated.core import GuestRun, HypervisorCore
from evac_compute.adapters.simulated.local import LocalHypervisor, SimulatedHypervisor
from evac_compute.lanes import FAULTS
from evac_compute.ports import Identity, Journal
from evac_compute.service import serve
from evac_compute.settings import Settings
from evac_lab.simulated.clock import VirtualClock, Walls
from evac_lab.simulated.loop import SeededLoop

Result = TypeVar("Result")
Some = TypeVar("Some", bound=Message)


def id_of(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


NODE_ID = id_of("node n1")

# Loops of finished tests, with the coroutines of killed daemons: collecting them would run their
# `finally` blocks, which a kill -9 does not.
_GRAVES: list[SeededLoop] = []

TERM = 7


@dataclass(slots=True)
class World:
    """`heard`: every report and heartbeat in the order of arrival."""

    loop: KillingLoop
    clock: VirtualClock
    settings: Settings
    state: EmbeddedState
    broker: EmbeddedBroker
    monitor: EmbeddedBus
    scheduler: EmbeddedBus
    hypervisor: SimulatedHypervisor
    journal: Journal
    link: Link = field(default_factory=Link)
    walls: Walls = field(default_factory=Walls)  # the daemon's wall clock is `compute`
    boot_id: str = "boot-1"
    dmi_uuid: str = "7e5f4d3c-0000-4000-8000-000000000001"
    heard: list[Message] = field(default_factory=list)
    life: int = 0
    bus: EmbeddedBus | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    leaving: asyncio.Event = field(default_factory=asyncio.Event)  # the machine shuts down
    daemon: asyncio.Task[Any] | None = None

    # --- the daemon ----------------------------------------------------------------------------

    def start_daemon(self) -> None:
        self.life += 1
        self.stop = asyncio.Event()
        self.daemon = self.loop.spawn(("compute", self.life), self._daemon(), name="compute")

    async def _daemon(self) -> None:
        clock = VirtualClock(self.loop, seed=1, process=f"compute/{self.life}", walls=self.walls)
        bus = EmbeddedBus(self.state, user=node_user(NODE_ID), clock=clock, link=self.link)
        self.bus = bus
        await serve(
            self.settings,
            clock=clock,
            bus=bus,
            hypervisor=LocalHypervisor(
                self.hypervisor,
                call_time_limit_s=self.settings.call_time_limit_s,
                start_time_limit_s=self.settings.start_time_limit_s,
            ),
            journal=self.journal,
            identity=Identity(
                node_id=NODE_ID,
                name="n1",
                boot_id=self.boot_id,
                dmi_uuid=self.dmi_uuid,
                hostname="n1",
            ),
            stop=self.stop,
            leaving=self.leaving,
        )

    def kill_daemon(self) -> None:
        """Kill -9: nothing of it runs any more, and the kernel closes its sockets."""
        self.loop.crash(("compute", self.life))
        if self.bus is not None:
            self.bus.abort()
        self.daemon = None

    def reboot(self) -> None:
        """Power cut and power on; the daemon is not started."""
        self.kill_daemon()
        self.hypervisor.power_cut()
        self.hypervisor.boot()
        self.boot_id += "'"

    # --- the controllers -----------------------------------------------------------------------

    async def listen(self) -> None:
        await self.monitor.wait_connected()
        await self.scheduler.wait_connected()
        await self.monitor.declare((*CONTROLLER_QUEUES, command_queue(NODE_ID)))
        await self.monitor.consume(MONITOR_REPORTS.name, self._hear, prefetch=100)
        await self.monitor.consume(heartbeat_queue("m"), self._hear, prefetch=100)
        await self.scheduler.consume(SCHEDULER_REPORTS.name, self._hear, prefetch=100)

    async def _hear(self, delivery: Delivery) -> Verdict:
        assert delivery.user_id == node_user(NODE_ID)
        self.heard.append(decode(delivery.headers, delivery.content_type, delivery.body)[1])
        return Verdict.ACK

    async def say(self, command: Command, *, user: str | None = None) -> None:
        bus = self.monitor if isinstance(command, Session) else self.scheduler
        if user is not None:
            bus = {MONITOR_USER: self.monitor, SCHEDULER_USER: self.scheduler}[user]
        await bus.publish(self.outgoing(command))

    def outgoing(self, message: Message) -> Outgoing:
        envelope = Envelope(id=self.clock.new_id(), source="/evac/test", time=self.clock.now())
        wire = encode(message, envelope)
        return Outgoing(
            exchange=message.family.exchange,
            routing_key=message.routing_key(),
            headers=wire.headers,
            content_type=wire.content_type,
            body=wire.body,
            message_id=envelope.id,
        )

    async def settle(self, seconds: float = 3.0) -> None:
        await asyncio.sleep(seconds)

    async def until(self, condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
        async with asyncio.timeout(within_s):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.05)

    async def hear(self, kind: type[Some], *, count: int = 1, within_s: float = 60.0) -> Some:
        """The `count`-th message of this kind, waiting for it."""
        await self.until(lambda: len(self.all(kind)) >= count, within_s=within_s)
        return self.all(kind)[count - 1]

    def all(self, kind: type[Some]) -> list[Some]:
        return [message for message in self.heard if isinstance(message, kind)]

    def reports(self) -> list[str]:
        """Reports about instances and commands, by name, in order."""
        quiet = (Registered, SessionApplied, Inventory, Heartbeat)
        return [
            message.name
            for message in self.heard
            if isinstance(message, Report) and not isinstance(message, quiet)
        ]

    # --- commands ------------------------------------------------------------------------------

    @property
    def incarnation(self) -> int:
        return self.journal.load().incarnation

    def _base(self, instance: str, fields: dict[str, Any]) -> dict[str, Any]:
        return {
            "node_id": NODE_ID,
            "command_id": self.clock.new_id(),
            "term": TERM,
            "incarnation": self.incarnation,
            "instance_id": id_of(instance),
            **fields,
        }

    def start(
        self, name: str = "web", *, epoch: int = 1, run: int = 1, late_s: float = -60.0, **more: Any
    ) -> Start:
        spec = more.pop("spec", None) or InstanceSpec(name=name, vcpus=1, memory_mib=512)
        now = self.clock.now()
        deadline = now - timedelta(seconds=late_s)
        times = {"issued_at": now, "deadline": deadline}
        fields = {"epoch": epoch, "run": run, **times, "spec": spec, **more}
        return Start(**self._base(name, fields))

    def stop_command(
        self, name: str = "web", *, epoch: int = 1, grace_s: float = 5.0, **more: Any
    ) -> Stop:
        return Stop(**self._base(name, {"epoch": epoch, "grace_s": grace_s, **more}))

    def destroy(self, name: str = "web", *, epoch: int = 1, **more: Any) -> Destroy:
        return Destroy(**self._base(name, {"epoch": epoch, **more}))

    def session(self, **more: Any) -> Session:
        fields: dict[str, Any] = {
            "node_id": NODE_ID,
            "command_id": self.clock.new_id(),
            "term": TERM,
            "incarnation": self.incarnation,
            "allowed": {},
            "superseded": {},
            **more,
        }
        return Session(**fields)

    async def into_session(self, **more: Any) -> None:
        """Wait for a registration, answer it, wait until it is applied."""
        registered = len(self.all(Registered))
        applied = len(self.all(SessionApplied))
        await self.hear(Registered, count=registered + 1)
        await self.say(self.session(**more))
        await self.hear(SessionApplied, count=applied + 1)

    # --- the truth -----------------------------------------------------------------------------

    @property
    def log(self) -> list[GuestRun]:
        return self.hypervisor.core.log

    def executing(self) -> list[tuple[str, int, int]]:
        return sorted(
            (guest.name, guest.epoch, guest.run) for guest in self.hypervisor.core.executing()
        )

    def never_twice(self) -> None:
        """No instance of this node's log overlaps itself, and no run was executed twice."""
        runs = [(entry.instance_id, entry.epoch, entry.run) for entry in self.log]
        assert len(runs) == len(set(runs)), "a run was executed twice"
        open_entries = [entry.instance_id for entry in self.log if entry.ended_at is None]
        assert len(open_entries) == len(set(open_entries)), "an instance runs twice"


def _faults() -> float:
    return sum(sample.value for metric in FAULTS.collect() for sample in metric.samples[:1])


class KillingLoop(SeededLoop):
    """Calls `kill` right before step `kill_at`: between any two awaits of anybody."""

    kill_at: int = -1
    kill: Callable[[], None]

    def _run_once(self) -> None:
        if self.steps == self.kill_at:
            self.kill()
        super()._run_once()


def in_world(
    test: Callable[[World], Coroutine[Any, Any, Result]],
    *,
    seed: int = 0,
    journal: Journal | None = None,
    start_daemon: bool = True,
    **settings: Any,
) -> Result:
    """Run `test` in a fresh world, on virtual time."""

    async def main(loop: KillingLoop) -> Result:
        clock = VirtualClock(loop, seed=seed, process="test")
        state = EmbeddedState.with_controllers()
        state.users[node_user(NODE_ID)] = node_permissions(NODE_ID)
        world = World(
            loop=loop,
            clock=clock,
            settings=Settings(**settings),
            state=state,
            broker=EmbeddedBroker(state),
            monitor=EmbeddedBus(state, user=MONITOR_USER, clock=clock),
            scheduler=EmbeddedBus(state, user=SCHEDULER_USER, clock=clock),
            hypervisor=SimulatedHypervisor(HypervisorCore(node="n1", vcpus=8, memory_mib=16384)),
            journal=journal or MemoryJournal(),
        )
        jobs = [
            loop.create_task(world.monitor.run(), name="monitor"),
            loop.create_task(world.scheduler.run(), name="scheduler"),
        ]
        try:
            await world.listen()
            if start_daemon:
                world.start_daemon()
            faults = _faults()
            result = await test(world)
            if world.daemon is not None:
                assert not world.daemon.done(), "the daemon ended by itself"
            assert _faults() == faults, "work on an instance ended by a defect: see the log"
            return result
        finally:
            world.stop.set()
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    loop = KillingLoop(seed)
    _GRAVES.append(loop)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close_quietly()
