"""The store on a loop without threads and without real time, as the simulator runs it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import sqlite3
import threading
import time
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sqlalchemy import func, select, text, update

from evac_common.errors import StoreUnavailable
from evac_common.messages.events import NodeUp
from evac_common.service.clock import SystemClock
from evac_common.store import synchronous
from evac_common.store.engine import Store
from evac_common.store.migrations import migrate
from evac_common.store.outbox import event
from evac_common.store.placement import planning_lock

NODE = "a" * 32


class _Waiting:
    """In place of a selector: to wait is to move the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is ready and no timer is armed")
        self._loop.seconds += timeout
        return []

    def close(self) -> None:
        pass


class VirtualLoop(asyncio.BaseEventLoop):
    """Virtual time, a seeded order of what is ready, no threads."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seconds = 0.0
        self.turns = 0
        self._order = random.Random(seed)
        self._selector = _Waiting(self)

    def time(self) -> float:
        return self.seconds

    def _process_events(self, events: object) -> None:
        pass

    def _write_to_self(self) -> NoReturn:
        raise RuntimeError("something called from another thread")

    def run_in_executor(self, *_: object) -> NoReturn:
        raise RuntimeError("a thread was asked for")

    def _run_once(self) -> None:
        self.turns += 1
        ready: Any = self._ready  # type: ignore[attr-defined]  # the base class's, untyped
        handles = list(ready)
        self._order.shuffle(handles)
        ready.clear()
        ready.extend(handles)
        super()._run_once()  # type: ignore[misc]  # the base class's, untyped


class VirtualClock:
    _ids = itertools.count()

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._loop.seconds)

    def new_id(self) -> str:
        return f"{next(self._ids):032x}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "evac.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def open_store(path: Path, loop: VirtualLoop) -> Store:
    return Store.open(
        f"sqlite:///{path}",
        service="monitor",
        clock=VirtualClock(loop),
        connect=synchronous.connect,
        instance="m1",
    )


def run(loop: VirtualLoop, work: Coroutine[Any, Any, Any]) -> Any:
    return loop.run_until_complete(work)


async def say(store: Store, number: int) -> None:
    async with store.transaction() as tx:
        await tx.emit(NodeUp(node_id=NODE, node="n1", incarnation=number))


async def count(store: Store) -> int:
    async with store.read() as tx:
        return int(await tx.scalar(select(func.count()).select_from(event)))


def test_a_thousand_transactions_start_no_thread(path: Path, loop: VirtualLoop) -> None:
    store = open_store(path, loop)
    before = threading.enumerate()

    async def work() -> int:
        for number in range(1000):
            await say(store, number)
        return await count(store)

    began = time.process_time()
    assert run(loop, work()) == 1000
    took = time.process_time() - began
    assert threading.enumerate() == before
    assert took < 2.0, f"1,000 transactions took {took:.2f} s of this processor"
    run(loop, store.close())


def test_a_transaction_takes_no_turn_of_the_loop(path: Path, loop: VirtualLoop) -> None:
    """So nothing else can happen between its statements."""
    store = open_store(path, loop)

    async def work() -> None:
        await say(store, 0)
        turns = loop.turns
        for number in range(20):
            await say(store, number)
        assert await count(store) == 21
        assert loop.turns == turns

    run(loop, work())
    run(loop, store.close())


def test_the_same_seed_is_the_same_history(tmp_path: Path) -> None:
    def history(seed: int, name: str) -> list[int]:
        path = tmp_path / name
        migrate(f"sqlite:///{path}")
        loop = VirtualLoop(seed)
        stores = [open_store(path, loop) for _ in range(3)]

        async def write(number: int) -> None:
            await asyncio.sleep(1.0)
            await say(stores[number % 3], number)

        async def work() -> list[int]:
            await asyncio.gather(*(write(number) for number in range(12)))
            async with stores[0].read() as tx:
                rows = await tx.rows(select(event.c.body).order_by(event.c.sequence))
            for store in stores:
                await store.close()
            return [row["body"]["incarnation"] for row in rows]

        try:
            return list(run(loop, work()))
        finally:
            loop.close()

    assert history(1, "a") == history(1, "b")
    assert history(1, "c") != history(2, "d")


def test_a_crash_inside_a_transaction_frees_the_lock(path: Path, loop: VirtualLoop) -> None:
    """`abandon` runs nothing of the service: no `finally`, no turn of the loop."""
    store = open_store(path, loop)
    other = open_store(path, loop)
    tidied: list[str] = []

    async def dying() -> None:
        try:
            async with store.transaction() as tx:
                await tx.execute(update(planning_lock).values(took_s=1.0))
                await asyncio.Event().wait()
        finally:
            tidied.append("a kill -9 does not do this")

    async def work() -> None:
        task = loop.create_task(dying())
        await asyncio.sleep(1.0)
        with pytest.raises(StoreUnavailable):  # the lock is held, and nobody waits for it
            await say(other, 1)
        turns = loop.turns
        store.abandon()
        assert loop.turns == turns
        assert not tidied
        await say(other, 2)
        async with other.read() as tx:
            assert await tx.scalar(select(planning_lock.c.took_s)) is None
        with pytest.raises(StoreUnavailable):
            await say(store, 3)
        with pytest.raises(StoreUnavailable):
            await count(store)
        task.cancel()  # the end of the simulation: what was kept is let go, and harms nobody
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await count(other) == 1

    run(loop, work())
    run(loop, other.close())
    run(loop, store.close())
    gc.collect()


def test_a_restarted_service_opens_the_same_file(path: Path, loop: VirtualLoop) -> None:
    store = open_store(path, loop)
    run(loop, say(store, 1))
    store.abandon()
    store.abandon()
    again = open_store(path, loop)
    assert run(loop, count(again)) == 1
    run(loop, again.close())


def test_errors_arrive_as_they_do_with_a_thread(path: Path, loop: VirtualLoop) -> None:
    async def work() -> None:
        connection = await synchronous.connect(str(path))
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await connection.execute("SELECT * FROM not_there")
        await connection.close()
        with pytest.raises(ValueError, match="no active connection"):
            await connection.execute("SELECT 1")

    run(loop, work())


async def test_connections_with_threads_cannot_be_abandoned(path: Path) -> None:
    store = Store.open(f"sqlite:///{path}", service="api", clock=SystemClock())
    with pytest.raises(AssertionError, match="at once"):
        store.abandon()
    await store.close()


async def test_sqlite_is_durable_with_a_thread(path: Path) -> None:
    store = Store.open(f"sqlite:///{path}", service="api", clock=SystemClock())
    async with store.read() as tx:
        assert await tx.scalar(text("PRAGMA synchronous")) == 2  # FULL
        assert await tx.scalar(text("PRAGMA journal_mode")) == "wal"
        assert await tx.scalar(text("PRAGMA foreign_keys")) == 1
    await store.close()
