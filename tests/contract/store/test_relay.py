"""From the outbox to the bus: at least once, in order per subject, whatever dies in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import func, select

from evac_common.bus.port import BusHealth, Outgoing
from evac_common.errors import BusRefused, BusUnavailable, StoreUnavailable, Unroutable
from evac_common.messages.events import NodeSuspect, NodeUp
from evac_common.relay.relay import Relay
from evac_common.store import outbox
from evac_common.store.engine import Store
from evac_common.store.transaction import Transaction
from tests.contract.store.database import Database, SetClock, an_id


class HeldBus:
    """Takes messages like a broker would, as fast, as slowly and as badly as a test says."""

    def __init__(self) -> None:
        self.taken: list[Outgoing] = []
        self.connected = True
        self.refuse: Callable[[Outgoing], Exception | None] = lambda message: None
        self.gate: asyncio.Event | None = None  # set: publishing waits for it
        self.in_flight = 0
        self.most_in_flight = 0

    def health(self) -> BusHealth:
        since = 0.0 if self.connected else None
        return BusHealth(connected=self.connected, connected_since_s=since, canary_at_s=since)

    async def publish(self, message: Outgoing) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
            if (error := self.refuse(message)) is not None:
                raise error
            self.taken.append(message)
        finally:
            self.in_flight -= 1

    def ids(self) -> list[str]:
        return [message.message_id for message in self.taken]


@pytest.fixture
def bus() -> HeldBus:
    return HeldBus()


@pytest.fixture
def relay(monitor: Store, bus: HeldBus, clock: SetClock) -> Relay:
    return Relay(monitor, bus, clock)


async def say(store: Store, number: int = 1, *, node: int = 11, each: bool = False) -> list[str]:
    """Emit events about one node, or about as many nodes."""
    ids = []
    async with store.transaction() as tx:
        for index in range(number):
            about = an_id(node + index) if each else an_id(node)
            ids.append(await tx.emit(NodeUp(node_id=about, node="n", incarnation=index)))
    return ids


async def unsent(store: Store) -> int:
    async with store.read() as tx:
        rows = select(func.count()).select_from(outbox.outbox)
        return int(await tx.scalar(rows.where(outbox.outbox.c.sent_at.is_(None))))


async def test_what_was_said_is_published_once(monitor: Store, bus: HeldBus, relay: Relay) -> None:
    ids = await say(monitor, 3)
    assert await relay.step() == 3
    assert bus.ids() == ids
    assert bus.taken[0].routing_key == f"node.up.{an_id(11)}"
    assert await relay.step() == 0
    assert bus.ids() == ids
    assert await unsent(monitor) == 0


async def test_it_publishes_only_its_own_service(
    database: Database, monitor: Store, bus: HeldBus, relay: Relay
) -> None:
    await say(database.store("scheduler"))
    assert await relay.step() == 0
    assert bus.taken == []


async def test_a_backlog_goes_out_in_windows(monitor: Store, bus: HeldBus, clock: SetClock) -> None:
    ids = await say(monitor, 25, each=True)
    assert await Relay(monitor, bus, clock, window=10).step() == 25
    assert sorted(bus.ids()) == sorted(ids)
    assert bus.most_in_flight == 10


async def test_messages_about_one_subject_keep_their_order(
    monitor: Store, bus: HeldBus, relay: Relay
) -> None:
    async with monitor.transaction() as tx:
        ids = []
        for index in range(10):
            ids.append(await tx.emit(NodeUp(node_id=an_id(11), node="n", incarnation=index)))
            ids.append(await tx.emit(NodeSuspect(node_id=an_id(11), node="n", silent_s=1.0)))
            await tx.emit(NodeUp(node_id=an_id(12), node="n", incarnation=index))
    await relay.step()
    assert [m.message_id for m in bus.taken if m.routing_key.endswith(an_id(11))] == ids
    assert bus.most_in_flight == 2


async def test_a_crash_between_publish_and_mark_repeats_and_loses_nothing(
    database: Database, monitor: Store, bus: HeldBus, clock: SetClock
) -> None:
    """The relay dies when the broker has the messages and the database does not know it."""
    ids = await say(monitor, 3, each=True)

    class Crash(BaseException):
        pass

    class Dying(Relay):
        async def _mark(self, tx: Transaction, done: Sequence[int]) -> None:
            raise Crash

    died = Dying(monitor, bus, clock)
    with pytest.raises(Crash):
        await died.step()
    assert sorted(bus.ids()) == sorted(ids)
    assert await unsent(monitor) == 3
    await Relay(database.store("monitor"), bus, clock).step()
    assert sorted(bus.ids()) == sorted(ids * 2)
    assert await unsent(monitor) == 0


async def test_cancelled_while_publishing(
    monitor: Store, bus: HeldBus, relay: Relay, clock: SetClock
) -> None:
    await say(monitor, 3)
    bus.gate = asyncio.Event()
    step = asyncio.create_task(relay.step())
    while not bus.in_flight:
        await asyncio.sleep(0)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    bus.gate.set()
    assert await Relay(monitor, bus, clock).step() == 3


async def test_an_outage_of_the_broker_reads_nothing(
    monitor: Store, bus: HeldBus, relay: Relay
) -> None:
    await say(monitor)
    bus.connected = False
    assert await relay.step() == 0
    bus.connected = True
    assert await relay.step() == 1


async def test_unknown_outcomes_are_kept_and_hold_back_what_follows(
    monitor: Store, bus: HeldBus, relay: Relay
) -> None:
    ids = await say(monitor, 3)
    other = await say(monitor, node=99)
    bus.refuse = lambda message: BusUnavailable() if message.message_id == ids[1] else None
    assert await relay.step() == 2
    assert sorted(bus.ids()) == sorted([ids[0], *other])
    bus.refuse = lambda message: None
    assert await relay.step() == 2
    assert bus.ids()[2:] == ids[1:]


async def test_a_message_without_a_queue_is_not_tried_for_ever(
    monitor: Store, bus: HeldBus, relay: Relay
) -> None:
    ids = await say(monitor, 3)
    bus.refuse = lambda message: Unroutable() if message.message_id == ids[1] else None
    assert await relay.step() == 3
    assert bus.ids() == [ids[0], ids[2]]
    assert await unsent(monitor) == 0


async def test_a_refused_message_waits_and_does_not_block_the_others(
    monitor: Store, bus: HeldBus, clock: SetClock
) -> None:
    relay = Relay(monitor, bus, clock, window=2)
    ids = await say(monitor, 5, each=True)
    bus.refuse = lambda message: BusRefused() if message.message_id in ids[:2] else None
    assert await relay.step() == 0
    assert await relay.step() == 3
    assert bus.ids() == ids[2:]
    assert await unsent(monitor) == 2
    bus.refuse = lambda message: None
    assert await relay.step() == 0
    clock.seconds += 61
    assert await relay.step() == 2
    assert bus.ids() == [*ids[2:], *ids[:2]]


async def test_a_broker_that_never_confirms(
    monitor: Store, bus: HeldBus, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evac_common.relay.relay.PUBLISH_LIMIT_S", 0.05)
    await say(monitor, 3, each=True)
    bus.gate = asyncio.Event()
    assert await relay.step() == 0
    assert await unsent(monitor) == 3


async def test_sent_rows_go_after_an_hour(
    monitor: Store, bus: HeldBus, relay: Relay, clock: SetClock
) -> None:
    async def rows() -> int:
        async with monitor.read() as tx:
            return int(await tx.scalar(select(func.count()).select_from(outbox.outbox)))

    await say(monitor, 3)
    await relay.step()
    clock.seconds += 3500
    await relay.step()
    assert await rows() == 3
    bus.connected = False
    await say(monitor)
    clock.seconds += 200
    await relay.step()
    bus.connected = True
    await relay.step()
    assert await rows() == 1  # the last one, sent just now


async def test_a_commit_wakes_it(monitor: Store, bus: HeldBus, relay: Relay) -> None:
    running = asyncio.create_task(relay.run())
    await asyncio.sleep(0.1)  # it has looked and waits; it would look by itself only after 1 s
    loop = asyncio.get_running_loop()
    began = loop.time()
    await say(monitor)
    while not bus.taken:
        assert loop.time() - began < 0.7, "the commit did not wake the relay"
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_database_that_is_away_only_delays(
    monitor: Store, bus: HeldBus, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(monitor)

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(monitor, "read", away)
        patch.setattr(monitor, "transaction", away)
        assert await relay.step() == 0
    assert await relay.step() == 1


@pytest.mark.real
async def test_two_relays_share_the_work(
    postgresql: Database, bus: HeldBus, clock: SetClock
) -> None:
    """Each holds its rows while it publishes, so nothing is said twice and nobody waits."""
    stores = [postgresql.store("monitor"), postgresql.store("monitor")]
    ids = await say(stores[0], 40, each=True)
    bus.gate = asyncio.Event()
    steps = [asyncio.create_task(Relay(store, bus, clock, window=20).step()) for store in stores]
    async with asyncio.timeout(10):
        while bus.in_flight < 40:  # both are at it at once
            await asyncio.sleep(0.01)
    bus.gate.set()
    assert sum(await asyncio.gather(*steps)) == 40
    assert sorted(bus.ids()) == sorted(ids)


@pytest.mark.real
async def test_rows_committed_out_of_order_are_not_missed(
    postgresql: Database, bus: HeldBus, clock: SetClock
) -> None:
    """A number is given before the commit: a later one may be visible, and sent, first."""
    slow, fast = postgresql.store("monitor"), postgresql.store("monitor")
    relay = Relay(fast, bus, clock)
    async with slow.transaction() as tx:
        first = await tx.emit(NodeUp(node_id=an_id(11), node="n", incarnation=1))
        (second,) = await say(fast)
        assert await relay.step() == 1
        assert bus.ids() == [second]
    assert await relay.step() == 1
    assert bus.ids() == [second, first]
