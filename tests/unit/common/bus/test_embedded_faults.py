"""What the simulator may do to the embedded bus, on virtual time, the same for the same seed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evac_common.bus.admin import EmbeddedAdmin
from evac_common.bus.embedded import Clear, EmbeddedBroker, EmbeddedBus, EmbeddedState, Fate, Link
from evac_common.bus.port import Delivery, Outgoing, Verdict
from evac_common.bus.topology import CONTROLLER_QUEUES, command_queue
from evac_common.errors import BusUnavailable
from evac_common.model.identity import SCHEDULER_USER, node_user
from evac_lab.simulated.clock import VirtualClock
from evac_lab.simulated.loop import SeededLoop, run

NODE = "a" * 32
USER = node_user(NODE)
KEY = f"compute.{USER}.start"


def command(body: bytes) -> Outgoing:
    return Outgoing(
        exchange="evac.command",
        routing_key=KEY,
        headers={},
        content_type="application/msgpack",
        body=body,
        message_id=body.hex(),
    )


class Cluster:
    """A scheduler and a node on one broker, each a process of its own."""

    def __init__(self, loop: SeededLoop, *, faults: Clear | None = None) -> None:
        self.loop = loop
        self.state = EmbeddedState.with_controllers()
        self.broker = EmbeddedBroker(self.state)
        self.scheduler = self._bus(SCHEDULER_USER, Link())
        self.node = self._bus(USER, Link(faults))
        self.got: list[bytes] = []

    def _bus(self, user: str, link: Link) -> EmbeddedBus:
        clock = VirtualClock(self.loop, seed=1, process=user)
        return EmbeddedBus(self.state, user=user, clock=clock, link=link)

    async def start(self) -> None:
        await EmbeddedAdmin(self.state).create_node_user(NODE)
        self.loop.spawn(("scheduler", 1), self.scheduler.run(), name="scheduler's bus")
        self.loop.spawn(("node", 1), self.node.run(), name="node's bus")
        await self.scheduler.wait_connected()
        await self.node.wait_connected()
        await self.scheduler.declare([*CONTROLLER_QUEUES, command_queue(NODE)])

    def listen(self, life: int = 1) -> None:
        async def take(delivery: Delivery) -> Verdict:
            self.got.append(delivery.body)
            return Verdict.ACK

        async def consume() -> None:
            await self.node.consume(command_queue(NODE).name, take, prefetch=4)

        self.loop.spawn(("node", life), consume(), name="consume")


class Duplicating(Clear):
    def delivering(self, queue: str, delivery: Delivery) -> Fate:
        return Fate((0.0, 7.0))


class LosingTheFirst(Clear):
    def __init__(self) -> None:
        self.lost = 0

    def delivering(self, queue: str, delivery: Delivery) -> Fate:
        if delivery.redelivered:
            return Fate()
        self.lost += 1
        return Fate(())


class Unanswering(Clear):
    def publishing(self, message: Outgoing) -> Fate:
        return Fate((0.0,), answered=False)


def test_a_delivery_may_come_twice() -> None:
    async def main(loop: SeededLoop) -> list[bytes]:
        cluster = Cluster(loop, faults=Duplicating())
        await cluster.start()
        cluster.listen()
        await cluster.scheduler.publish(command(b"1"))
        await asyncio.sleep(10)
        return cluster.got

    assert run(1, main) == [b"1", b"1"]


def test_a_lost_delivery_comes_again() -> None:
    async def main(loop: SeededLoop) -> tuple[list[bytes], int]:
        faults = LosingTheFirst()
        cluster = Cluster(loop, faults=faults)
        await cluster.start()
        cluster.listen()
        for body in (b"1", b"2"):
            await cluster.scheduler.publish(command(body))
        await asyncio.sleep(10)
        return sorted(cluster.got), faults.lost

    assert run(1, main) == ([b"1", b"2"], 2)


def test_a_publish_whose_answer_is_lost_is_unknown_and_arrived() -> None:
    async def main(loop: SeededLoop) -> tuple[list[bytes], float]:
        cluster = Cluster(loop)
        await cluster.start()
        cluster.scheduler.link.faults = Unanswering()
        began_s = loop.time()
        with pytest.raises(BusUnavailable):
            await cluster.scheduler.publish(command(b"1"))
        took_s = loop.time() - began_s
        cluster.listen()
        await asyncio.sleep(1)
        return cluster.got, took_s

    assert run(1, main) == ([b"1"], 5.0)


def test_a_short_cut_delays_and_a_long_one_disconnects() -> None:
    async def main(loop: SeededLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        cluster.listen()
        await asyncio.sleep(1)
        cluster.node.link.cut()
        await cluster.scheduler.publish(command(b"1"))
        await asyncio.sleep(10)
        assert cluster.node.health().connected
        assert cluster.got == []
        cluster.node.link.heal()
        await asyncio.sleep(0.1)
        assert cluster.got == [b"1"]
        cluster.node.link.cut()
        await cluster.scheduler.publish(command(b"2"))
        await asyncio.sleep(17)
        assert cluster.node.health().connected
        stale_s = cluster.node.health().canary_at_s
        assert stale_s is not None
        assert loop.time() - stale_s >= 17
        await asyncio.sleep(2)
        assert not cluster.node.health().connected
        cluster.node.link.heal()
        await asyncio.sleep(16)
        assert cluster.node.health().connected
        assert cluster.got == [b"1", b"2"]

    run(1, main)


def test_a_killed_process_gives_its_messages_back_when_its_sockets_close() -> None:
    async def main(loop: SeededLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        held: list[bytes] = []

        async def hold(delivery: Delivery) -> Verdict:
            held.append(delivery.body)
            await loop.create_future()
            return Verdict.ACK

        async def consume() -> None:
            await cluster.node.consume(command_queue(NODE).name, hold, prefetch=4)

        loop.spawn(("node", 1), consume(), name="consume")
        await asyncio.sleep(1)
        await cluster.scheduler.publish(command(b"1"))
        await asyncio.sleep(1)
        assert held == [b"1"]
        loop.crash(("node", 1))
        cluster.node.abort()  # as the kernel does for a dead process
        await asyncio.sleep(1)
        assert [each.body for each in cluster.state.waiting(command_queue(NODE).name)] == [b"1"]
        cluster.node = cluster._bus(USER, cluster.node.link)
        loop.spawn(("node", 2), cluster.node.run(), name="node's bus again")
        cluster.listen(life=2)
        await asyncio.sleep(5)
        assert cluster.got == [b"1"]

    run(1, main)


def test_what_one_process_was_told_survives_the_crash_of_another() -> None:
    async def main(loop: SeededLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        cluster.listen()

        async def publish() -> None:
            await cluster.scheduler.publish(command(b"1"))

        await asyncio.sleep(1)
        loop.spawn(("scheduler", 1), publish(), name="publish")
        await asyncio.sleep(0)
        loop.crash(("scheduler", 1))
        cluster.scheduler.abort()
        await asyncio.sleep(1)
        await EmbeddedAdmin(cluster.state).create_node_user(NODE)
        other = cluster._bus(SCHEDULER_USER, Link())
        loop.spawn(("scheduler", 2), other.run(), name="scheduler's bus again")
        await other.wait_connected()
        await other.publish(command(b"2"))
        await asyncio.sleep(1)
        assert cluster.got[-1] == b"2"

    for seed in range(20):
        run(seed, main)


def test_the_same_seed_gives_the_same_run() -> None:
    def main(faults: Clear) -> Any:
        async def body(loop: SeededLoop) -> str:
            cluster = Cluster(loop, faults=faults)
            await cluster.start()
            cluster.listen()
            for number in range(50):
                await cluster.scheduler.publish(command(b"%d" % number))
                if number == 20:
                    cluster.node.link.cut()
                if number == 30:
                    cluster.broker.stop()
                    await asyncio.sleep(3)
                    cluster.broker = EmbeddedBroker(cluster.state)
                    cluster.node.link.heal()
                    await cluster.scheduler.wait_connected()
            await asyncio.sleep(60)
            assert set(cluster.got) == {b"%d" % number for number in range(50)}
            return loop.digest()

        return body

    digests = [run(seed, main(Duplicating())) for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_cut_outward_the_broker_gives_up_and_tells_the_client() -> None:
    async def main(loop: SeededLoop) -> list[bytes]:
        cluster = Cluster(loop)
        await cluster.start()
        cluster.listen()
        await asyncio.sleep(1)
        cluster.node.link.set(outward=False, inward=True)
        await cluster.scheduler.publish(command(b"1"))
        await asyncio.sleep(1)
        assert cluster.got == [b"1"]  # it hears, and nobody hears that it has heard
        await asyncio.sleep(16)
        assert cluster.node.health().connected
        await asyncio.sleep(2)
        assert not cluster.node.health().connected
        assert [each.body for each in cluster.state.waiting(command_queue(NODE).name)] == [b"1"]
        cluster.node.link.heal()
        await asyncio.sleep(16)
        return cluster.got

    assert run(1, main) == [b"1", b"1"]


def test_cut_inward_what_the_client_says_arrives_until_it_gives_up() -> None:
    async def main(loop: SeededLoop) -> list[bytes]:
        cluster = Cluster(loop)
        await cluster.start()
        cluster.listen()
        await asyncio.sleep(1)
        cluster.scheduler.link.set(outward=True, inward=False)
        with pytest.raises(BusUnavailable):
            await cluster.scheduler.publish(command(b"1"))
        assert cluster.got == [b"1"]  # arrived, and its publisher does not know
        await asyncio.sleep(14)
        assert not cluster.scheduler.health().connected
        return cluster.got

    assert run(1, main) == [b"1"]


def test_a_hung_process_is_given_up_by_the_broker_and_learns_of_it_when_it_goes_on() -> None:
    async def main(loop: SeededLoop) -> list[bytes]:
        cluster = Cluster(loop)
        await cluster.start()
        cluster.listen()
        await asyncio.sleep(1)
        loop.suspend(("node", 1))
        cluster.node.freeze()
        await cluster.scheduler.publish(command(b"1"))
        await asyncio.sleep(17)
        assert cluster.state.waiting(command_queue(NODE).name) == ()  # handed to the silent one
        await asyncio.sleep(2)
        assert [each.body for each in cluster.state.waiting(command_queue(NODE).name)] == [b"1"]
        assert cluster.got == []
        cluster.node.thaw()
        loop.resume(("node", 1))
        await asyncio.sleep(16)
        assert cluster.node.health().connected
        assert cluster.node.counters.reconnects == 1
        return cluster.got

    assert b"1" in run(1, main)


def test_a_process_that_hangs_for_a_moment_keeps_its_connection() -> None:
    async def main(loop: SeededLoop) -> list[bytes]:
        cluster = Cluster(loop)
        await cluster.start()
        cluster.listen()
        await asyncio.sleep(1)
        loop.suspend(("node", 1))
        cluster.node.freeze()
        await cluster.scheduler.publish(command(b"1"))
        await asyncio.sleep(10)
        cluster.node.thaw()
        loop.resume(("node", 1))
        await asyncio.sleep(60)
        assert cluster.node.counters.reconnects == 0
        return cluster.got

    assert run(1, main) == [b"1"]


class Late(Clear):
    def publishing(self, message: Outgoing) -> Fate:
        return Fate((3000.0,)) if message.body == b"late" else Fate()


def test_a_late_message_arrives_after_its_connection_is_gone_and_at_once_when_hurried() -> None:
    async def main(loop: SeededLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        cluster.listen()
        link = cluster.scheduler.link
        link.faults = Late()
        with pytest.raises(BusUnavailable):
            await cluster.scheduler.publish(command(b"late"))
        link.cut()
        await asyncio.sleep(60)
        link.heal()
        assert cluster.got == []
        await asyncio.sleep(3000)
        assert cluster.got == [b"late"]
        with pytest.raises(BusUnavailable):
            await cluster.scheduler.publish(command(b"late"))
        link.hurry()
        await asyncio.sleep(1)
        assert cluster.got == [b"late"] * 2

    run(1, main)


def test_a_client_with_a_fast_clock_does_not_take_its_canary_for_old() -> None:
    async def main(loop: SeededLoop) -> None:
        loop.set_rate("node", 1.25)
        cluster = Cluster(loop)
        await cluster.start()
        await asyncio.sleep(1000)
        ages: list[float] = []

        async def look() -> None:
            canary_s = cluster.node.health().canary_at_s
            assert canary_s is not None
            ages.append(loop.time() - canary_s)

        loop.spawn(("node", 1), look(), name="look")
        await asyncio.sleep(0.1)
        cluster.node.link.cut()
        await asyncio.sleep(10)
        loop.spawn(("node", 1), look(), name="look")
        await asyncio.sleep(0.1)
        assert 0 <= ages[0] <= 2
        assert 10 <= ages[1] <= 15

    run(1, main)
