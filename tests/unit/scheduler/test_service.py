"""The whole service on virtual time: tasks, embedded bus, relay, two replicas, kills."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from evac_common.bus import topology
from evac_common.bus.embedded import EmbeddedBroker, EmbeddedBus, EmbeddedState
from evac_common.bus.inbox import outgoing, receive
from evac_common.bus.permissions import node_permissions
from evac_common.bus.port import Verdict
from evac_common.errors import SettingsRefused
from evac_common.messages import commands
from evac_common.messages.codec import Envelope
from evac_common.messages.registry import Message
from evac_common.model.identity import SCHEDULER_USER, node_user
from evac_common.store.engine import Store
from evac_common.store.migrations import migrate
from evac_common.store.synchronous import connect
from evac_lab.simulated import loop as seeded
from evac_lab.simulated.clock import VirtualClock
from evac_scheduler import cli
from evac_scheduler.service import serve
from evac_scheduler.settings import Settings
from tests.seeds import first_is_quick
from tests.unit.scheduler.cluster import Cluster, id_of

Result = TypeVar("Result")
START_S = 2.0
NODES = ("n1", "n2", "n3")


@dataclass
class World:
    loop: seeded.SeededLoop
    clock: VirtualClock
    cluster: Cluster
    state: EmbeddedState
    executed: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    lives: int = 0
    stores: dict[str, Store] = field(default_factory=dict)
    buses: dict[str, EmbeddedBus] = field(default_factory=dict)
    processes: dict[str, seeded.Process] = field(default_factory=dict)

    def start_scheduler(self, name: str) -> asyncio.Task[Any]:
        self.lives += 1
        self.processes[name] = (name, self.lives)
        clock = VirtualClock(self.loop, seed=1, process=f"{name}/{self.lives}")
        store = Store.open(
            self.cluster.url, service="scheduler", clock=clock, connect=connect, instance=name
        )
        self.stores[name] = store
        bus = self.buses[name] = EmbeddedBus(self.state, user=SCHEDULER_USER, clock=clock)
        work = serve(
            Settings(profile="default", name=name),
            clock=clock,
            bus=bus,
            store=store,
            stop=asyncio.Event(),
        )
        return self.loop.spawn(self.processes[name], work, name=name)

    def kill_scheduler(self, name: str) -> None:
        self.loop.crash(self.processes[name])
        self.buses[name].abort()
        self.stores[name].abandon()

    async def node(self, name: str) -> None:
        """A node that starts what it is told, takes its time, and reports each thing twice."""
        bus = EmbeddedBus(self.state, user=node_user(id_of(name)), clock=self.clock)
        running: set[asyncio.Task[Any]] = set()

        async def say(message: Message) -> None:
            envelope = Envelope(id=self.clock.new_id(), source="/n", time=self.clock.now())
            await bus.publish(outgoing(message, envelope))

        async def execute(start: commands.Start) -> None:
            run = (start.instance_id, start.epoch, start.run)
            if run not in executed:
                executed.add(run)
                self.executed[run] += 1
                await asyncio.sleep(START_S)
            for _ in range(2):
                await say(self.cluster.started(start))

        executed: set[tuple[str, int, int]] = set()

        async def started(envelope: Envelope, start: commands.Start) -> Verdict:
            running.add(asyncio.create_task(execute(start)))
            return Verdict.ACK

        queue = topology.command_queue(id_of(name)).name
        await bus.consume(queue, receive({commands.Start: started}), prefetch=10)
        await bus.run()

    async def until_running(self, count: int, limit_s: float = 120.0) -> float:
        began_s = self.loop.time()
        async with asyncio.timeout(limit_s):
            while await self.cluster.phases() != {"running": count}:
                await asyncio.sleep(0.5)
        return self.loop.time() - began_s


def in_world(
    folder: Path, test: Callable[[World], Coroutine[Any, Any, Result]], *, seed: int = 0
) -> tuple[Result, str]:
    """Run a test on a world with three nodes; also the fingerprint of the run."""

    async def main(loop: seeded.SeededLoop) -> tuple[Result, str]:
        clock = VirtualClock(loop, seed=seed, process="test")
        state = EmbeddedState.with_controllers()
        for name in NODES:
            state.users[node_user(id_of(name))] = node_permissions(id_of(name))
        EmbeddedBroker(state)
        url = f"sqlite:///{folder / 'evac.db'}"
        migrate(url)
        cluster = Cluster(url, clock=clock, connect=connect)
        world = World(loop=loop, clock=clock, cluster=cluster, state=state)
        for name in NODES:
            await cluster.node(name)
        nodes = [loop.create_task(world.node(name), name=name) for name in NODES]
        try:
            return await test(world), loop.digest()
        finally:
            for name in world.processes:
                world.kill_scheduler(name)
            for node in nodes:
                node.cancel()
            await cluster.close()

    return seeded.run(seed, main)


async def _twelve(world: World) -> list[str]:
    names = [f"web-{number:02}" for number in range(12)]
    for name in names:
        await world.cluster.instance(name)
    return names


def test_placement_needs_nothing_but_rows_and_a_broker(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await _twelve(world)
        world.start_scheduler("s1")
        took_s = await world.until_running(12)

        assert took_s < 30
        assert {(epoch, run) for _, epoch, run in world.executed} == {(1, 1)}

    in_world(tmp_path, test)


def test_a_dead_nodes_instances_come_back_through_a_kill_in_the_middle(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        names = await _twelve(world)
        world.start_scheduler("s1")
        await world.until_running(12)
        on_n1 = [n for n in names if (await world.cluster.ledger(n))[-1]["node_id"] == id_of("n1")]
        assert len(on_n1) == 4
        await world.cluster.prove_dead("n1")
        await asyncio.sleep(5.5)
        world.kill_scheduler("s1")
        await asyncio.sleep(5.0)
        world.start_scheduler("s1")

        await world.until_running(12)

        assert len(world.executed) == len({(i, e) for i, e, _ in world.executed})
        assert set(world.executed.values()) == {1}
        for name in names:
            epochs = [row["epoch"] for row in await world.cluster.ledger(name)]
            assert epochs == ([1, 2] if name in on_n1 else [1])
        await asyncio.sleep(6)
        assert len(await world.cluster.events("evacuation.done")) == 1

    in_world(tmp_path, test)


@pytest.mark.parametrize("seed", first_is_quick(range(4)))
def test_two_replicas_start_nothing_twice(tmp_path: Path, seed: int) -> None:
    async def test(world: World) -> None:
        names = await _twelve(world)
        for name in ("s1", "s2"):
            world.start_scheduler(name)
        await world.until_running(12)
        await world.cluster.prove_dead("n2")
        await asyncio.sleep(4.0 + seed)
        world.kill_scheduler("s2")

        await world.until_running(12)

        assert len(world.executed) == len({(i, e) for i, e, _ in world.executed})
        assert set(world.executed.values()) == {1}
        for name in names:
            assert len(await world.cluster.ledger(name)) in (1, 2)
        assert len(await world.cluster.events("instance.placed")) == len(world.executed)

    in_world(tmp_path, test, seed=seed)


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    async def test(world: World) -> list[tuple[str, str]]:
        await _twelve(world)
        world.start_scheduler("s1")
        await world.until_running(12)
        await world.cluster.prove_dead("n3")
        await world.until_running(12)
        return [(row["name"], row["subject"]) for row in await world.cluster.events()]

    runs = []
    for number, seed in enumerate((5, 5, 6)):
        folder = tmp_path / str(number)
        folder.mkdir()
        runs.append(in_world(folder, test, seed=seed))

    assert runs[0] == runs[1]
    assert runs[0][1] != runs[2][1]


def test_a_broker_that_is_away_at_the_start_only_delays(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert world.state.listening is not None
        world.state.listening.stop()
        await _twelve(world)
        world.start_scheduler("s1")
        await asyncio.sleep(60)
        assert await world.cluster.phases() == {"starting": 6, "pending": 6}
        EmbeddedBroker(world.state)

        await world.until_running(12, limit_s=180)

        assert len(world.executed) == len({(i, e) for i, e, _ in world.executed})
        assert set(world.executed.values()) == {1}

    in_world(tmp_path, test)


def test_settings_that_do_not_fit_together_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "scheduler.toml"
    config.write_text("resend_min_s = 40\nresend_max_s = 50\n")

    with pytest.raises(SettingsRefused, match="command_deadline_s"):
        Settings.load(config)
    assert cli.main(["check", "--config", str(config)]) == 2
    assert (
        "does not hold: command_deadline_s (60) >= 2 resend_min_s (80)" in capsys.readouterr().err
    )


def test_check_accepts_the_defaults_and_the_fast_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "scheduler.toml"
    config.write_text('profile = "fast"\n')

    assert cli.main(["check"]) == 0
    assert cli.main(["check", "--config", str(config)]) == 0
    assert Settings.load(config).policy.limits.per_node == 4
    assert capsys.readouterr().err == ""
