"""Monitors on virtual time: their real code, on the real store and the embedded bus.

The nodes' daemons are played by hand, as small as the protocol allows, and the api is played by
writing its rows. So a test says what happens to the nodes, and sees what the monitors decide.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import RowMapping, insert, select, text, update

from evac_common.bus.embedded import EmbeddedBroker, EmbeddedBus, EmbeddedState, Link
from evac_common.bus.inbox import outgoing, receive
from evac_common.bus.permissions import node_permissions
from evac_common.bus.port import Consumer, Delivery, Handler, Offset, Queue, Verdict
from evac_common.bus.topology import CONTROLLER_QUEUES, command_queue
from evac_common.errors import BusUnavailable, Unroutable
from evac_common.messages.codec import Envelope
from evac_common.messages.commands import Session
from evac_common.messages.events import NodeIntent
from evac_common.messages.heartbeats import Heartbeat
from evac_common.messages.registry import Message
from evac_common.messages.reports import DomainSeen, Registered, SessionApplied
from evac_common.model.identity import API_USER, MONITOR_USER, node_user
from evac_common.model.states import PowerKind
from evac_common.service.secrets import SecretBox
from evac_common.store import intent, nodes, outbox, synchronous
from evac_common.store.engine import Store
from evac_common.store.migrations import migrate
from evac_lab.simulated.clock import VirtualClock, Walls
from evac_lab.simulated.loop import SeededLoop
from evac_monitor.adapters.power_simulated import SimulatedBmc, SimulatedPower
from evac_monitor.adapters.witnesses_simulated import SimulatedPeers, SimulatedSecondChannel
from evac_monitor.service import serve
from evac_monitor.settings import Settings

Result = TypeVar("Result")

SECRETS = SecretBox([SecretBox.new_key()])

# Loops of finished tests, with the coroutines of killed processes: collecting them would run their
# `finally` blocks, which a kill -9 does not.
_GRAVES: list[SeededLoop] = []


def id_of(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def uuid_of(name: str) -> str:
    digits = id_of(name)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


@dataclass(slots=True)
class Node:
    """A host and its daemon, played by hand. It is a BMC's `Machine`."""

    world: World
    name: str
    bmc: SimulatedBmc | None = None
    dmi_uuid: str = ""
    on: bool = True
    incarnation: int = 1
    term: int = 0
    term_seen: int = 0
    life: int = 0
    domains: list[DomainSeen] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    link: Link = field(default_factory=Link)
    bus: EmbeddedBus | None = None
    sequence: int = 0
    deaf: bool = False  # sessions arrive and are not applied
    troubles: dict[str, str] = field(default_factory=dict)  # told in its heartbeats

    @property
    def node_id(self) -> str:
        return id_of(self.name)

    # --- the machine ---------------------------------------------------------------------------

    def power_off(self) -> None:
        self.on = False
        self.hang()

    def is_on(self) -> bool:
        return self.on

    def boot(self) -> None:
        """Power on: a new boot id, so a higher incarnation."""
        self.hang()
        self.on, self.domains = True, []
        self.incarnation += 1
        self.start()

    # --- the daemon ----------------------------------------------------------------------------

    def start(self) -> None:
        self.life += 1
        self.term = 0
        self.world.loop.spawn((self.name, self.life), self._daemon(), name=self.name)

    def hang(self) -> None:
        """The daemon is gone; the machine, and what runs on it, is not."""
        self.world.loop.crash((self.name, self.life))
        if self.bus is not None:
            self.bus.abort()
            self.bus = None

    async def _daemon(self) -> None:
        clock = self.world.clock
        self.bus = EmbeddedBus(self.world.state, user=node_user(self.node_id), clock=clock)
        self.bus.link = self.link
        commands = receive({Session: self._session})
        await self.bus.consume(command_queue(self.node_id).name, commands, prefetch=10)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.bus.run())
            group.create_task(self._repeat(2.0, self._beat))
            group.create_task(self._repeat(5.0, self._register))

    async def _repeat(self, period_s: float, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            with suppress(BusUnavailable, Unroutable):  # said again at the next turn
                await step()
            await asyncio.sleep(period_s)

    async def _beat(self) -> None:
        self.sequence += 1
        await self.say(
            Heartbeat(
                node_id=self.node_id,
                incarnation=self.incarnation,
                term=self.term,
                sequence=self.sequence,
                troubles=self.troubles,
            )
        )

    async def _register(self) -> None:
        if self.term:
            return
        await self.say(
            Registered(
                node_id=self.node_id,
                incarnation=self.incarnation,
                boot_id=f"boot-{self.incarnation}",
                term_seen=self.term_seen,
                dmi_uuid=self.dmi_uuid or uuid_of(self.name),
                hostname=self.name,
                daemon_version="0",
                hypervisor="played",
                vcpus=8,
                memory_mib=16384,
                inventory=self.domains,
            )
        )

    async def _session(self, envelope: Envelope, session: Session) -> Verdict:
        if session.incarnation != self.incarnation:
            if session.term > self.term_seen:
                self.term = 0  # it registers, as the real one does
            return Verdict.ACK
        self.term_seen = max(self.term_seen, session.term)
        self.sessions.append(session)
        if self.deaf:
            return Verdict.ACK
        self.domains = [
            seen
            for seen in self.domains
            if seen.epoch > session.superseded.get(seen.instance_id, 0)
        ]
        if session.proven_dead:
            if not self.domains:
                self.incarnation += 1
            return Verdict.ACK
        self.term = session.term
        await self.say(
            SessionApplied(node_id=self.node_id, incarnation=self.incarnation, term=session.term)
        )
        return Verdict.ACK

    async def say(self, message: Message) -> None:
        assert self.bus is not None
        envelope = Envelope(
            id=self.world.clock.new_id(), source=f"/evac/{self.name}", time=self.world.clock.now()
        )
        await self.bus.publish(outgoing(message, envelope))


class PartlyDeafBus(EmbeddedBus):
    """Loses what the users in `unheard` say, heartbeats and all."""

    unheard: frozenset[str] = frozenset()

    async def consume(
        self, queue: str | Queue, handler: Handler, *, prefetch: int, offset: Offset | None = None
    ) -> Consumer:
        async def hear(delivery: Delivery) -> Verdict:
            return Verdict.ACK if delivery.user_id in self.unheard else await handler(delivery)

        return await super().consume(queue, hear, prefetch=prefetch, offset=offset)


@dataclass(slots=True)
class World:
    loop: SeededLoop
    clock: VirtualClock
    url: str
    state: EmbeddedState
    broker: EmbeddedBroker
    api: EmbeddedBus
    store: Store
    settings: dict[str, Any]
    nodes: dict[str, Node] = field(default_factory=dict)
    lives: dict[str, int] = field(default_factory=dict)
    buses: dict[str, EmbeddedBus] = field(default_factory=dict)
    stores: dict[str, Store] = field(default_factory=dict)
    ends: list[asyncio.Task[Any]] = field(default_factory=list)
    walls: Walls = field(default_factory=Walls)  # `jump("m1", SECONDS)`
    wishes: int = 0
    witnesses: bool = False  # there are a second channel and peers, and they say:
    shown: dict[str, bool | None] = field(default_factory=dict)  # by node's name; else silent
    reached: dict[str, bool | None] = field(default_factory=dict)  # by any peer; else not
    unheard: dict[str, list[str]] = field(default_factory=dict)  # monitor → names of nodes

    # --- monitors ------------------------------------------------------------------------------

    def start_monitor(self, name: str = "m1") -> None:
        self.lives[name] = life = self.lives.get(name, 0) + 1
        self.ends.append(
            self.loop.spawn((name, life), self._monitor(name, life), name=f"monitor {name}")
        )

    async def _monitor(self, name: str, life: int) -> None:
        clock = VirtualClock(self.loop, seed=1, process=f"{name}/{life}", walls=self.walls)
        bus = PartlyDeafBus(self.state, user=MONITOR_USER, clock=clock)
        bus.unheard = frozenset(node_user(id_of(node)) for node in self.unheard.get(name, []))
        store = Store.open(
            self.url, service="monitor", clock=clock, connect=synchronous.connect, instance=name
        )
        self.buses[name], self.stores[name] = bus, store
        await serve(
            Settings.load(name=name, **self.settings),
            clock=clock,
            bus=bus,
            store=store,
            stop=asyncio.Event(),
            power={PowerKind.IPMI: SimulatedPower(self._bmc)},
            secrets=SECRETS,
            second_channel=SimulatedSecondChannel(self._is_shown) if self.witnesses else None,
            peers=SimulatedPeers(self._is_reached) if self.witnesses else None,
        )

    def _is_shown(self, node_id: str) -> bool | None:
        return self.shown.get(self._name(node_id), False)

    def _is_reached(self, peer_id: str, node_id: str) -> bool | None:
        assert peer_id != node_id, "nobody is asked about itself"
        return self.reached.get(self._name(node_id), False)

    def _name(self, node_id: str) -> str:
        return next(name for name, node in self.nodes.items() if node.node_id == node_id)

    def kill_monitor(self, name: str = "m1") -> None:
        """Kill -9: nothing of it runs any more; the kernel closes its sockets and files."""
        self.loop.crash((name, self.lives[name]))
        self.buses.pop(name).abort()
        self.stores.pop(name).abandon()

    def _bmc(self, address: str) -> SimulatedBmc | None:
        for node in self.nodes.values():
            if node.bmc is not None and node.bmc.address == address:
                return node.bmc
        return None

    # --- the api -------------------------------------------------------------------------------

    async def enrol(self, name: str, *, bmc: bool = True, password: str = "secret") -> Node:
        node = Node(self, name)
        self.nodes[name] = node
        self.state.users[node_user(node.node_id)] = node_permissions(node.node_id)
        await self.api.declare([command_queue(node.node_id)])
        power = None
        if bmc:
            node.bmc = SimulatedBmc(machine=node, address=f"bmc-{name}", system_uuid=uuid_of(name))
            power = {"kind": "ipmi", "address": f"bmc-{name}", "port": 623, "username": "admin"}
        async with self.store.transaction() as tx:
            await tx.execute(
                insert(intent.node_spec).values(
                    id=node.node_id,
                    name=name,
                    vcpus=8,
                    memory_mib=16384,
                    labels={},
                    bridges=[],
                    dmi_uuid=uuid_of(name),
                    power=power,
                    power_secret=SECRETS.encrypt(password) if bmc else None,
                    generation=1,
                    created_at=tx.now,
                    updated_at=tx.now,
                )
            )
            await tx.emit(NodeIntent(node_id=node.node_id, node=name, verb="enrol"))
        return node

    async def wish(self, name: str, verb: str, reason: str = "it smokes") -> str:
        self.wishes += 1
        wish_id = id_of(f"wish {self.wishes}")
        async with self.store.transaction() as tx:
            await tx.execute(
                insert(intent.node_wish).values(
                    id=wish_id,
                    node_id=id_of(name),
                    verb=verb,
                    actor="alice",
                    reason=reason,
                    operation_id=id_of(f"operation {self.wishes}"),
                    created_at=tx.now,
                )
            )
        return wish_id

    async def cluster_wish(self, verb: str, **arguments: Any) -> str:
        self.wishes += 1
        wish_id = id_of(f"wish {self.wishes}")
        async with self.store.transaction() as tx:
            await tx.execute(
                insert(intent.cluster_wish).values(
                    id=wish_id,
                    verb=verb,
                    arguments=arguments,
                    actor="alice",
                    reason="the switch is replaced",
                    operation_id=id_of(f"operation {self.wishes}"),
                    created_at=tx.now,
                )
            )
        return wish_id

    async def set_enrolment(self, name: str, **values: Any) -> None:
        async with self.store.transaction() as tx:
            spec = intent.node_spec
            await tx.execute(update(spec).where(spec.c.id == id_of(name)).values(**values))

    async def sql(self, statement: str, **values: Any) -> None:
        async with self.store.transaction() as tx:
            await tx.execute(text(statement), values)

    # --- what is known -------------------------------------------------------------------------

    async def row(self, name: str) -> RowMapping | None:
        async with self.store.read() as tx:
            table = nodes.node_state
            return await tx.row(select(table).where(table.c.node_id == id_of(name)))

    async def state_of(self, name: str) -> str:
        row = await self.row(name)
        return "" if row is None else str(row["state"])

    async def outcome(self, wish_id: str) -> tuple[str, str] | None:
        async with self.store.read() as tx:
            table = nodes.monitor_wish_outcome
            row = await tx.row(select(table).where(table.c.wish_id == wish_id))
            return None if row is None else (row["result"], row["reason"])

    async def table(self, table: Any) -> list[dict[str, Any]]:
        async with self.store.read() as tx:
            return [dict(row) for row in await tx.rows(select(table))]

    async def proofs(self) -> list[tuple[str, int, str]]:
        names = {node.node_id: name for name, node in self.nodes.items()}
        return [
            (names[row["node_id"]], row["incarnation"], row["kind"])
            for row in await self.table(nodes.proof_node)
        ]

    async def events(self, *names: str) -> list[dict[str, Any]]:
        """Bodies of the events so called (all, when none is named), in their order."""
        return [
            {"name": row["name"], **row["body"]}
            for row in await self.table(outbox.event)
            if not names or row["name"] in names
        ]

    async def history(self, name: str) -> list[str]:
        """The states a node went through."""
        return [
            event["new"]
            for event in await self.events("node.state")
            if event["node_id"] == id_of(name)
        ]

    # --- waiting -------------------------------------------------------------------------------

    async def until(
        self, condition: Callable[[], Awaitable[bool]], *, within_s: float = 120.0
    ) -> None:
        async with asyncio.timeout(within_s):
            while not await condition():
                await asyncio.sleep(0.25)

    async def reach(self, name: str, state: str, *, within_s: float = 120.0) -> None:
        async def there() -> bool:
            return await self.state_of(name) == state

        try:
            await self.until(there, within_s=within_s)
        except TimeoutError:
            row = await self.row(name)
            raise AssertionError(f"{name} did not become {state}: {dict(row or {})}") from None

    async def in_service(self, *names: str, bmc: bool = True) -> list[Node]:
        """Enrol nodes, start them, and let the hold-off after the monitors' start pass."""
        made = [await self.enrol(name, bmc=bmc) for name in names]
        for node in made:
            node.start()
        for name in names:
            await self.reach(name, "up")
        await asyncio.sleep(70)
        return made


def in_world(
    test: Callable[[World], Coroutine[Any, Any, Result]],
    template: Path,
    *,
    seed: int = 0,
    monitors: tuple[str, ...] = ("m1",),
    witnesses: bool = False,
    unheard: dict[str, list[str]] | None = None,
    **settings: Any,
) -> Result:
    """Run `test` in a fresh world, on virtual time. `template` is a migrated database."""
    loop = SeededLoop(seed)
    _GRAVES.append(loop)
    worlds: list[World] = []
    path = template.with_name(f"world-{len(_GRAVES)}.sqlite")
    shutil.copy(template, path)

    async def main() -> Result:
        clock = VirtualClock(loop, seed=seed, process="test")
        state = EmbeddedState.with_controllers()
        broker = EmbeddedBroker(state)
        url = f"sqlite:///{path}"
        world = World(
            loop=loop,
            clock=clock,
            url=url,
            state=state,
            broker=broker,
            api=EmbeddedBus(state, user=API_USER, clock=clock),
            store=Store.open(url, service="api", clock=clock, connect=synchronous.connect),
            settings=settings,
            witnesses=witnesses,
            unheard=unheard or {},
        )
        worlds.append(world)
        job = loop.create_task(world.api.run(), name="api")
        await world.api.wait_connected()
        await world.api.declare(CONTROLLER_QUEUES)
        for name in monitors:
            world.start_monitor(name)
        result = await test(world)
        for end in world.ends:
            assert not end.done(), "a monitor ended by itself"
        job.cancel()
        await world.store.close()
        return result

    try:
        return loop.run_until_complete(main())
    finally:
        loop.close_quietly()
        for world in worlds:
            for store in (world.store, *world.stores.values()):
                store.abandon()


def make_template(path: Path) -> Path:
    migrate(f"sqlite:///{path}")
    return path
