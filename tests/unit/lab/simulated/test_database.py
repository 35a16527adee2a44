"""The simulated database fails as PostgreSQL does; the real store over it says so and recovers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import select, update

from evac_common.errors import StoreUnavailable
from evac_common.store.engine import ANSWER_LIMIT_S, IDLE_LIMIT_S, LOCK_LIMIT_S, Store
from evac_common.store.migrations import migrate
from evac_common.store.placement import planning_lock
from evac_lab.oracle.ports import NoWitness
from evac_lab.scenario.timeline import DATABASE, DatabaseState, Direction
from evac_lab.simulated.clock import VirtualClock
from evac_lab.simulated.database import SimulatedDatabase
from evac_lab.simulated.loop import SeededLoop, run
from evac_lab.simulated.network import Network
from evac_lab.simulated.telling import Telling


class Notes(NoWitness):
    def __init__(self) -> None:
        self.commits = 0
        self.faults: list[str] = []
        self.restores = 0

    def committed(self, at_s: float) -> None:
        self.commits += 1

    def restored(self, at_s: float) -> None:
        self.restores += 1

    def fault(self, component: str, kind: str, at_s: float) -> None:
        self.faults.append(f"{component} {kind}")


@dataclass(slots=True)
class Site:
    """Two services and their database. `a` and `b` are processes of their own."""

    loop: SeededLoop
    path: Path
    notes: Notes = field(default_factory=Notes)
    network: Network = field(init=False)
    database: SimulatedDatabase = field(init=False)
    a: Store = field(init=False)
    b: Store = field(init=False)

    def __post_init__(self) -> None:
        self.network = Network(["n1"])
        self.database = SimulatedDatabase(
            self.path, loop=self.loop, network=self.network, telling=Telling(self.loop, self.notes)
        )
        self.a, self.b = self.store("a"), self.store("b")

    def store(self, owner: str) -> Store:
        return Store.open(
            f"sqlite:///{self.path}",
            service="scheduler",
            clock=VirtualClock(self.loop, seed=1, process=owner),
            connect=self.database.connector(owner, owner),
            instance=owner,
        )

    async def begin_and_hang(self, ended: list[BaseException]) -> None:
        """`a` is stopped in the middle of a transaction; `ended`: how that goes on one day."""

        async def work() -> None:
            try:
                async with self.a.transaction() as tx:
                    await tx.execute(update(planning_lock).values(took_s=99.0))
                    await tx.execute(update(planning_lock).values(took_s=100.0))
            except StoreUnavailable as error:
                ended.append(error)

        self.database.turn(DatabaseState.SLOW)
        self.loop.spawn(("a", 1), work(), name="a")
        for _ in range(100):
            await asyncio.sleep(0.01)
            if self.database.in_transaction("a"):
                break
        assert self.database.in_transaction("a")
        self.loop.suspend(("a", 1))
        self.database.froze("a")
        self.database.turn(DatabaseState.ON)


Story = Callable[[Site], Awaitable[None]]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("migrated") / "evac.db"
    migrate(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def at_site(migrated: bytes, tmp_path: Path) -> Callable[[Story], Notes]:
    def play(story: Story) -> Notes:
        path = tmp_path / "evac.db"
        path.write_bytes(migrated)

        async def main(loop: SeededLoop) -> Notes:
            site = Site(loop, path)
            await story(site)
            for owner in ("a", "b"):
                site.database.died(owner)
            return site.notes

        return run(1, main)

    return play


async def set_took(store: Store, value: float) -> None:
    async with store.transaction() as tx:
        await tx.execute(update(planning_lock).values(took_s=value))


async def took(store: Store) -> float:
    async with store.read() as tx:
        return float(await tx.scalar(select(planning_lock.c.took_s)))


def test_a_calm_database_takes_no_time_and_tells_of_commits(
    at_site: Callable[[Story], Notes],
) -> None:
    async def story(site: Site) -> None:
        await set_took(site.a, 1.0)
        assert await took(site.b) == 1.0
        assert site.loop.true_time == 0.0

    assert at_site(story).commits == 1


def test_off_every_call_fails_and_on_again_everything_works(
    at_site: Callable[[Story], Notes],
) -> None:
    async def story(site: Site) -> None:
        await set_took(site.a, 1.0)
        site.database.turn(DatabaseState.OFF)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await set_took(site.a, 2.0)
            with pytest.raises(StoreUnavailable):
                await took(site.a)
        site.database.turn(DatabaseState.ON)
        assert await took(site.a) == 1.0
        await set_took(site.a, 3.0)
        assert await took(site.b) == 3.0

    assert at_site(story).faults == ["D off"]


def test_killed_before_the_commit_nothing_is_committed(at_site: Callable[[Story], Notes]) -> None:
    async def story(site: Site) -> None:
        await set_took(site.a, 1.0)
        with pytest.raises(StoreUnavailable, match="unknown whether"):
            async with site.a.transaction() as tx:
                await tx.execute(update(planning_lock).values(took_s=2.0))
                site.database.turn(DatabaseState.OFF)
        site.database.turn(DatabaseState.ON)
        assert await took(site.a) == 1.0

    at_site(story)


def test_a_lost_acknowledgement_is_a_commit_that_nobody_knows_of(
    at_site: Callable[[Story], Notes],
) -> None:
    async def story(site: Site) -> None:
        site.database.turn(DatabaseState.LOSE_ACK, 2)
        for value in (1.0, 2.0):
            with pytest.raises(StoreUnavailable, match="unknown whether"):
                await set_took(site.a, value)
            assert await took(site.a) == value
        await set_took(site.a, 3.0)

    notes = at_site(story)
    assert notes.faults == ["D lose-ack"] * 2
    assert notes.commits == 3


def test_reading_alone_loses_no_acknowledgement(at_site: Callable[[Story], Notes]) -> None:
    async def story(site: Site) -> None:
        await set_took(site.a, 1.0)
        site.database.turn(DatabaseState.LOSE_ACK)
        async with site.a.transaction() as tx:
            assert await tx.scalar(select(planning_lock.c.took_s)) == 1.0
        assert await took(site.a) == 1.0

    assert at_site(story).faults == []


def test_read_only_refuses_writes_and_answers_reads(at_site: Callable[[Story], Notes]) -> None:
    async def story(site: Site) -> None:
        await set_took(site.a, 1.0)
        site.database.turn(DatabaseState.READONLY)
        for store in (site.a, site.b):  # one with a connection, one without
            with pytest.raises(StoreUnavailable):
                await set_took(store, 2.0)
            assert await took(store) == 1.0
        site.database.turn(DatabaseState.ON)
        await set_took(site.a, 2.0)

    assert at_site(story).commits == 2


def test_a_slow_database_lets_transactions_overlap_and_loses_none(
    at_site: Callable[[Story], Notes],
) -> None:
    async def story(site: Site) -> None:
        await set_took(site.a, 0.0)
        site.database.turn(DatabaseState.SLOW)

        async def add(store: Store) -> None:
            async with store.transaction() as tx:
                was = await tx.scalar(select(planning_lock.c.took_s))
                await tx.execute(update(planning_lock).values(took_s=was + 1))

        await asyncio.gather(*(add(store) for store in (site.a, site.b) for _ in range(2)))
        assert site.loop.true_time > 0.5
        assert await took(site.a) == 4.0

    at_site(story)


def test_what_does_not_arrive_is_not_done(at_site: Callable[[Story], Notes]) -> None:
    async def story(site: Site) -> None:
        await set_took(site.a, 1.0)
        site.network.cut("a", DATABASE, Direction.OUT)
        began_s = site.loop.true_time
        with pytest.raises(StoreUnavailable):
            await set_took(site.a, 2.0)
        assert site.loop.true_time - began_s == ANSWER_LIMIT_S
        assert await took(site.b) == 1.0
        site.network.heal("a", DATABASE, Direction.OUT)
        await set_took(site.a, 3.0)

    assert at_site(story).commits == 2


def test_cut_inward_a_commit_happens_and_its_client_never_hears_of_it(
    at_site: Callable[[Story], Notes],
) -> None:
    async def story(site: Site) -> None:
        await set_took(site.a, 1.0)
        with pytest.raises(StoreUnavailable, match="unknown whether"):
            async with site.a.transaction() as tx:
                await tx.execute(update(planning_lock).values(took_s=2.0))
                site.network.cut("a", DATABASE, Direction.IN)
        assert await took(site.b) == 2.0

    assert at_site(story).commits == 2


def test_a_short_cut_only_delays(at_site: Callable[[Story], Notes]) -> None:
    async def story(site: Site) -> None:
        await set_took(site.a, 1.0)
        site.network.cut("a", DATABASE, Direction.BOTH)
        writing = asyncio.create_task(set_took(site.a, 2.0))
        await asyncio.sleep(5)
        assert not writing.done()
        site.network.heal("a", DATABASE, Direction.BOTH)
        await writing
        assert site.loop.true_time == 5.0
        assert await took(site.b) == 2.0

    at_site(story)


def test_hung_inside_a_transaction_holds_the_others_only_until_it_counts_as_idle(
    at_site: Callable[[Story], Notes],
) -> None:
    async def story(site: Site) -> None:
        await set_took(site.b, 1.0)
        ended: list[BaseException] = []
        await site.begin_and_hang(ended)
        began_s = site.loop.true_time
        with pytest.raises(StoreUnavailable, match="locked"):
            await set_took(site.b, 2.0)
        assert site.loop.true_time - began_s == pytest.approx(LOCK_LIMIT_S)
        await asyncio.sleep(IDLE_LIMIT_S - LOCK_LIMIT_S)
        await set_took(site.b, 3.0)
        site.loop.resume(("a", 1))
        await asyncio.sleep(1)
        assert await took(site.b) == 3.0
        assert isinstance(ended[0], StoreUnavailable)

    at_site(story)


def test_that_it_counts_as_idle_is_found_by_one_look_whatever_the_sums_round_to(
    at_site: Callable[[Story], Notes],
) -> None:
    async def story(site: Site) -> None:
        await set_took(site.b, 1.0)
        await site.begin_and_hang([])
        (session,) = (each for each in vars(site.database)["_sessions"] if each.owner == "a")
        await asyncio.sleep(4.0 - site.loop.true_time)
        vars(session)["_used_at_s"] = 2.3  # 4.0 + (2.3 + 30 - 4.0) is less than 2.3 + 30
        before = site.loop.steps
        await asyncio.sleep(IDLE_LIMIT_S)
        assert site.loop.steps - before < 50
        await set_took(site.b, 3.0)

    at_site(story)


def test_a_slow_server_waits_no_longer_for_a_lock(at_site: Callable[[Story], Notes]) -> None:
    async def story(site: Site) -> None:
        await set_took(site.b, 1.0)
        await site.begin_and_hang([])
        site.database.turn(DatabaseState.SLOW)
        began_s = site.loop.true_time
        with pytest.raises(StoreUnavailable, match="locked"):
            await set_took(site.b, 2.0)
        assert LOCK_LIMIT_S <= site.loop.true_time - began_s < LOCK_LIMIT_S + 2

    at_site(story)


def test_who_waits_for_the_lock_gets_it_when_the_transaction_ends(
    at_site: Callable[[Story], Notes],
) -> None:
    async def story(site: Site) -> None:
        await set_took(site.b, 1.0)
        ended: list[BaseException] = []
        await site.begin_and_hang(ended)
        writing = asyncio.create_task(set_took(site.b, 2.0))
        await asyncio.sleep(2)
        assert not writing.done()
        site.loop.crash(("a", 1))
        site.database.died("a")
        await writing
        assert await took(site.b) == 2.0

    at_site(story)


def test_killed_behind_a_cut_it_holds_its_locks_until_it_counts_as_idle(
    at_site: Callable[[Story], Notes],
) -> None:
    async def story(site: Site) -> None:
        await set_took(site.b, 1.0)
        await site.begin_and_hang([])
        site.network.cut("a", DATABASE, Direction.OUT)
        site.loop.crash(("a", 1))
        site.database.died("a")
        with pytest.raises(StoreUnavailable, match="locked"):
            await set_took(site.b, 2.0)
        await asyncio.sleep(IDLE_LIMIT_S)
        await set_took(site.b, 3.0)

    at_site(story)


def test_restored_it_is_as_it_was_saved_and_another_database(
    at_site: Callable[[Story], Notes],
) -> None:
    async def story(site: Site) -> None:
        await set_took(site.a, 1.0)
        site.database.turn(DatabaseState.SAVE)
        await set_took(site.a, 2.0)
        await took(site.b)
        site.database.turn(DatabaseState.RESTORE)
        with pytest.raises(StoreUnavailable):
            await took(site.a)  # its connection was to the server before
        assert await took(site.a) == 1.0
        first = site.database.identity_file.read_text("utf-8")
        site.database.turn(DatabaseState.RESTORE)
        assert site.database.identity_file.read_text("utf-8") != first

    notes = at_site(story)
    assert notes.restores == 2
    assert notes.faults == ["D restore"] * 2


def test_nothing_can_be_restored_that_was_not_saved(at_site: Callable[[Story], Notes]) -> None:
    async def story(site: Site) -> None:
        with pytest.raises(RuntimeError, match="nothing was saved"):
            site.database.turn(DatabaseState.RESTORE)

    at_site(story)
