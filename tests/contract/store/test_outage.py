"""PostgreSQL goes away: an error with a name, in bounded time, and then it works again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, text, update

from evac_common.errors import StoreUnavailable
from evac_common.store.engine import Store
from evac_common.store.migrations import migrate
from evac_common.store.placement import planning_lock
from evac_lab.real.servers import PostgreSQL
from tests.contract.store.database import SetClock

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def killable(server: PostgreSQL) -> Iterator[PostgreSQL]:
    """One that may be killed; `server` only says whether there is PostgreSQL at all."""
    assert server.is_running()
    own = PostgreSQL()
    yield own
    asyncio.run(own.discard())


@pytest.fixture
async def own_server(killable: PostgreSQL) -> PostgreSQL:
    if not killable.is_running():
        await killable.start()
    await killable.drop_database("evac")
    migrate(await killable.create_database("evac"))
    return killable


@pytest.fixture
async def store(own_server: PostgreSQL) -> AsyncIterator[Store]:
    store = Store.open(own_server.url("evac"), service="scheduler", clock=SetClock())
    yield store
    await store.close()


async def set_took(store: Store, value: float) -> None:
    async with store.transaction() as tx:
        await tx.execute(update(planning_lock).values(took_s=value))


async def took(store: Store) -> float:
    async with store.read() as tx:
        return float(await tx.scalar(select(planning_lock.c.took_s)))


async def test_killed_and_restarted(own_server: PostgreSQL, store: Store) -> None:
    await set_took(store, 1.0)
    await own_server.kill9()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await set_took(store, 2.0)
    await own_server.start()
    await set_took(store, 3.0)
    assert await took(store) == 3.0


async def test_restarted_between_two_transactions_costs_nothing(
    own_server: PostgreSQL, store: Store
) -> None:
    """The pool's connections are dead; nobody but the pool need know."""
    await asyncio.gather(*(store.ping() for _ in range(5)))
    await own_server.restart()
    await asyncio.gather(*(store.ping() for _ in range(5)))


async def test_killed_inside_a_transaction(own_server: PostgreSQL, store: Store) -> None:
    await set_took(store, 1.0)

    async def killed() -> None:
        async with store.transaction() as tx:
            await tx.execute(update(planning_lock).values(took_s=2.0))
            await own_server.kill9()
            await tx.execute(update(planning_lock).values(took_s=3.0))

    with pytest.raises(StoreUnavailable):
        await killed()
    await own_server.start()
    assert await took(store) == 1.0


async def test_killed_before_the_commit_is_answered(own_server: PostgreSQL, store: Store) -> None:
    async def killed() -> None:
        async with store.transaction() as tx:
            await tx.execute(update(planning_lock).values(took_s=2.0))
            await own_server.kill9()

    with pytest.raises(StoreUnavailable, match="unknown whether"):
        await killed()
    await own_server.start()
    await store.ping()


async def test_away_from_the_start() -> None:
    store = Store.open("postgresql://a:b@127.0.0.1:1/x", service="api", clock=SetClock())
    with pytest.raises(StoreUnavailable):
        await store.ping()
    await store.close()


async def test_a_connection_that_an_operator_ended(own_server: PostgreSQL, store: Store) -> None:
    other = Store.open(own_server.url("evac"), service="api", clock=SetClock())

    async def ended() -> None:
        async with store.transaction() as tx:
            pid = await tx.scalar(text("SELECT pg_backend_pid()"))
            async with other.transaction() as killing:
                await killing.execute(text(f"SELECT pg_terminate_backend({pid})"))
            await tx.execute(select(planning_lock))

    with pytest.raises(StoreUnavailable):
        await ended()
    await store.ping()
    await other.close()


async def test_a_server_that_does_not_answer_is_cut_off(
    own_server: PostgreSQL, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped processes: the network still acknowledges, so only our own limit ends the wait."""
    monkeypatch.setattr("evac_common.store.engine.ANSWER_LIMIT_S", 1.0)
    monkeypatch.setattr("evac_common.store.engine.CONNECT_LIMIT_S", 1.0)
    await set_took(store, 1.0)
    with stopped(own_server):
        async with asyncio.timeout(15):  # a pooled connection is given up, a new one too
            with pytest.raises(StoreUnavailable):
                await store.ping()
    await store.ping()

    async def unanswered() -> None:
        async with store.transaction() as tx:
            await tx.execute(update(planning_lock).values(took_s=2.0))
            with stopped(own_server):
                async with asyncio.timeout(15):
                    await tx.execute(update(planning_lock).values(took_s=3.0))

    with pytest.raises(StoreUnavailable):
        await unanswered()
    assert await took(store) == 1.0


async def test_cancelled_while_the_server_does_not_answer(
    own_server: PostgreSQL, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evac_common.store.engine.ANSWER_LIMIT_S", 1.0)

    async def hang() -> None:
        async with store.transaction() as tx:
            await tx.execute(update(planning_lock).values(took_s=2.0))
            with stopped(own_server):
                task_ready.set()
                await tx.execute(update(planning_lock).values(took_s=3.0))

    task_ready = asyncio.Event()
    task = asyncio.create_task(hang())
    await task_ready.wait()
    task.cancel()
    async with asyncio.timeout(15):
        with pytest.raises(asyncio.CancelledError):
            await task
    await store.ping()


async def test_a_query_that_takes_too_long(
    own_server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evac_common.store.engine.STATEMENT_LIMIT_S", 1)
    store = Store.open(own_server.admin_url, service="api", clock=SetClock())
    async with asyncio.timeout(10):
        with pytest.raises(StoreUnavailable, match="statement timeout"):
            async with store.read() as tx:
                await tx.execute(text("SELECT pg_sleep(30)"))
    await store.close()


@contextmanager
def stopped(server: PostgreSQL) -> Iterator[None]:
    """SIGSTOP to the server and all its children, then SIGCONT."""
    assert server.pid is not None
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    processes = [server.pid, *map(int, children)]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
