"""What a transaction promises, on both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, update

from evac_common.errors import Conflict, SettingsRefused, StoreUnavailable
from evac_common.messages.codec import decode
from evac_common.messages.commands import Stop
from evac_common.messages.events import NodeBlocked, NodeDown, NodeSuspect
from evac_common.model.states import ProofKind
from evac_common.store import outbox, placement
from evac_common.store.engine import Store
from evac_common.store.intent import node_spec
from evac_common.store.placement import planning_lock, reservation
from tests.contract.store.database import Database, SetClock, an_id

VM, NODE = an_id(1), an_id(11)


def promise(store: Store, vm: str = VM) -> dict[str, object]:
    now = store.clock.now()
    return {
        "instance_id": vm,
        "node_id": NODE,
        "vcpus": 2,
        "memory_mib": 2048,
        "created_at": now,
    }


async def reserved(store: Store) -> list[str]:
    async with store.read() as tx:
        rows = await tx.rows(select(reservation).order_by(reservation.c.instance_id))
    return [row["instance_id"] for row in rows]


async def test_what_is_committed_stays(scheduler: Store, clock: SetClock) -> None:
    async with scheduler.transaction() as tx:
        assert await tx.change(insert(reservation).values(promise(scheduler))) == 1
        assert tx.now == clock.now()
    async with scheduler.read() as tx:
        row = await tx.row(select(reservation))
        assert row is not None
        assert row["created_at"] == clock.now()
        assert await tx.scalar(select(reservation.c.vcpus)) == 2


async def test_an_exception_rolls_everything_back(scheduler: Store) -> None:
    async def fail() -> None:
        async with scheduler.transaction() as tx:
            await tx.execute(insert(reservation).values(promise(scheduler)))
            await tx.emit(NodeSuspect(node_id=NODE, node="n1", silent_s=9.0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await reserved(scheduler) == []
    assert not scheduler.outbox_wake.is_set()


async def test_an_error_caught_inside_commits_nothing(scheduler: Store) -> None:
    """PostgreSQL turns such a COMMIT silently into a ROLLBACK; both databases must say so."""

    async def go_on(*, reading: bool) -> None:
        async with scheduler.transaction() as tx:
            await tx.execute(insert(reservation).values(promise(scheduler)))
            with pytest.raises(Conflict):
                await tx.execute(insert(reservation).values(promise(scheduler)))
            if reading:
                await tx.execute(select(reservation))

    with pytest.raises(RuntimeError, match="caught inside"):
        await go_on(reading=False)
    with pytest.raises(RuntimeError, match="only its end is left"):
        await go_on(reading=True)
    assert await reserved(scheduler) == []


async def test_of_two_compare_and_sets_one_wins(database: Database) -> None:
    one, two = database.store("scheduler"), database.store("scheduler")
    async with one.transaction() as tx:
        await tx.execute(insert(reservation).values(promise(one)))

    async def take(store: Store, vcpus: int) -> int:
        async with store.transaction() as tx:
            return await tx.change(
                update(reservation).where(reservation.c.vcpus == 2).values(vcpus=vcpus)
            )

    assert sorted(await asyncio.gather(take(one, 3), take(two, 4))) == [0, 1]


async def test_many_writers_lose_nothing(database: Database) -> None:
    stores = [database.store("scheduler") for _ in range(3)]

    async def write(number: int) -> None:
        store = stores[number % 3]
        async with store.transaction() as tx:
            await tx.execute(insert(reservation).values(promise(store, an_id(number))))

    await asyncio.gather(*(write(number) for number in range(30)))
    assert await reserved(stores[0]) == [an_id(number) for number in range(30)]


async def test_a_reader_sees_one_moment_and_writes_nothing(database: Database) -> None:
    reader, writer = database.store("scheduler"), database.store("scheduler")
    async with reader.read() as snapshot:
        assert await snapshot.rows(select(reservation)) == []
        async with writer.transaction() as tx:
            await tx.execute(insert(reservation).values(promise(writer)))
        assert await snapshot.rows(select(reservation)) == []
        with pytest.raises(TypeError, match="writing statement"):
            await snapshot.execute(delete(reservation))
        with pytest.raises(TypeError, match="writing statement"):
            await snapshot.audit(actor="x", action="x", subject="x", reason="x")
    assert await reserved(reader) == [VM]


async def test_a_time_without_a_zone_is_refused(scheduler: Store, clock: SetClock) -> None:
    values = {**promise(scheduler), "created_at": clock.now().replace(tzinfo=None)}
    with pytest.raises(Exception, match="without a zone"):
        async with scheduler.transaction() as tx:
            await tx.execute(insert(reservation).values(values))


async def test_json_none_is_null(database: Database) -> None:
    api = database.store("api")
    now = api.clock.now()
    async with api.transaction() as tx:
        await tx.execute(
            insert(node_spec).values(
                id=NODE,
                name="n1",
                vcpus=1,
                memory_mib=1,
                labels={"a": "b"},
                bridges=[],
                power=None,
                generation=1,
                created_at=now,
                updated_at=now,
            )
        )
    async with api.read() as tx:
        assert await tx.scalar(select(node_spec.c.name).where(node_spec.c.power.is_(None))) == "n1"
        assert await tx.scalar(select(node_spec.c.labels)) == {"a": "b"}


async def test_an_event_is_a_row_and_a_message(monitor: Store, clock: SetClock) -> None:
    down = NodeDown(
        node_id=NODE, node="n1", incarnation=3, proof=ProofKind.POWER, evidence="Off, twice"
    )
    async with monitor.transaction() as tx:
        event_id = await tx.emit(down)
    assert monitor.outbox_wake.is_set()
    async with monitor.read() as tx:
        event = await tx.row(select(outbox.event))
        message = await tx.row(select(outbox.outbox))
    assert event is not None
    assert message is not None
    assert (event["event_id"], event["name"], event["subject"]) == (event_id, "node.down", NODE)
    assert event["alarm"] is False
    assert event["body"] == down.model_dump(mode="json")
    assert event["service"] == message["service"] == "monitor"
    assert (message["message_id"], message["sent_at"]) == (event_id, None)
    assert (message["exchange"], message["routing_key"]) == ("evac.event", f"node.down.{NODE}")
    envelope, read = decode(message["headers"], message["content_type"], message["body"])
    assert read == down
    assert envelope.id == event_id
    assert envelope.source.startswith("/evac/monitor/")
    assert envelope.time == clock.now()


async def test_a_command_is_sent_again_unchanged(scheduler: Store, clock: SetClock) -> None:
    stop = Stop(node_id=NODE, command_id=an_id(7), term=1, incarnation=1, instance_id=VM, epoch=2)
    async with scheduler.transaction() as tx:
        sent = await tx.send(stop, message_id=stop.command_id)
        await tx.execute(
            insert(placement.command).values(
                id=stop.command_id,
                node_id=NODE,
                instance_id=VM,
                verb="stop",
                epoch=2,
                run=0,
                term=1,
                incarnation=1,
                headers=dict(sent.headers),
                body=sent.body,
                sent=1,
                next_at=tx.now,
                created_at=tx.now,
            )
        )
    clock.seconds += 60
    async with scheduler.transaction() as tx:
        row = await tx.row(select(placement.command))
        assert row is not None
        assert await tx.send_again(row) == sent
    async with scheduler.read() as tx:
        first, second = await tx.rows(select(outbox.outbox).order_by(outbox.outbox.c.sequence))
    same = ("message_id", "exchange", "routing_key", "headers", "content_type", "body")
    assert [first[key] for key in same] == [second[key] for key in same]


async def test_an_audit_row_says_who_and_why(scheduler: Store, clock: SetClock) -> None:
    async with scheduler.transaction() as tx:
        await tx.audit(
            actor="alice",
            action="item.state",
            subject=VM,
            reason="asked",
            detail={"old": "pending"},
        )
    async with scheduler.read() as tx:
        row = await tx.row(select(outbox.audit))
    assert row is not None
    assert (row["actor"], row["service"], row["reason"]) == ("alice", "scheduler", "asked")
    assert row["detail"] == {"old": "pending"}


async def test_a_cancelled_transaction_leaves_nothing_and_blocks_nobody(database: Database) -> None:
    store, other = database.store("scheduler"), database.store("scheduler")
    inside = asyncio.Event()

    async def stuck() -> None:
        async with store.transaction() as tx:
            await tx.execute(insert(reservation).values(promise(store)))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stuck())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for each in (other, store):
        async with each.transaction() as tx:
            await tx.execute(insert(reservation).values(promise(each)))
            await tx.execute(delete(reservation))


async def test_cancelled_while_a_statement_waits_for_a_lock(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evac_common.store.engine.LOCK_LIMIT_S", 1)  # SQLite waits to its end
    store, other = database.store("scheduler"), database.store("scheduler")
    async with other.transaction() as holding:
        await holding.execute(update(planning_lock).values(took_s=1.0))

        async def wait() -> None:
            async with store.transaction() as tx:
                await tx.execute(update(planning_lock).values(took_s=2.0))

        task = asyncio.create_task(wait())
        await asyncio.sleep(0.2)  # long enough to be waiting; if not, it is cancelled earlier
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with store.transaction() as tx:
        await tx.execute(update(planning_lock).values(took_s=3.0))
    async with other.read() as tx:
        assert await tx.scalar(select(planning_lock.c.took_s)) == 3.0


async def test_a_lock_held_too_long_is_weather(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evac_common.store.engine.LOCK_LIMIT_S", 1)
    store, other = database.store("scheduler"), database.store("scheduler")
    async with other.transaction() as holding:
        await holding.execute(update(planning_lock).values(took_s=1.0))
        async with asyncio.timeout(5):
            with pytest.raises(StoreUnavailable):
                async with store.transaction() as tx:
                    await tx.execute(update(planning_lock).values(took_s=2.0))
    await store.ping()


async def test_ping_asks_for_the_tables_too(database: Database) -> None:
    api = database.store("api")
    await api.ping()
    database.sql("UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(StoreUnavailable, match="evac-api migrate"):
        await api.ping()
    database.sql("UPDATE alembic_version SET version_num = '9999'")  # a newer service migrated
    await api.ping()


async def test_a_database_without_tables_is_weather_that_names_the_cure(
    tmp_path: Path, clock: SetClock
) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'empty.db'}", service="api", clock=clock)
    with pytest.raises(StoreUnavailable, match="evac-api migrate"):
        await store.ping()
    await store.close()


async def test_a_closed_store_may_be_used_again(scheduler: Store) -> None:
    await scheduler.ping()
    await scheduler.close()
    await scheduler.ping()


async def test_a_mistake_in_a_statement_is_not_weather(scheduler: Store) -> None:
    with pytest.raises(Exception, match=r"NOT NULL|not-null") as caught:
        async with scheduler.transaction() as tx:
            await tx.execute(insert(reservation).values(instance_id=VM))
    assert not isinstance(caught.value, StoreUnavailable)


async def test_secrets_stay_out_of_error_texts(scheduler: Store) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        async with scheduler.transaction() as tx:
            await tx.execute(insert(reservation).values(instance_id="very secret value"))
    statement = str(caught.value).partition("[SQL")[2]  # the drivers' own text comes first
    assert statement
    assert "very secret value" not in statement
    assert "hide_parameters" in str(caught.value)


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "not a url"])
def test_other_addresses_are_refused(url: str, clock: SetClock) -> None:
    with pytest.raises(SettingsRefused):
        Store.open(url, service="api", clock=clock)


async def test_the_suspect_event_has_no_alarm_and_the_blocked_one_has(monitor: Store) -> None:
    async with monitor.transaction() as tx:
        await tx.emit(NodeSuspect(node_id=NODE, node="n1", silent_s=9.0))
        await tx.emit(NodeBlocked(node_id=NODE, node="n1", incarnation=1))
    async with monitor.read() as tx:
        rows = await tx.rows(select(outbox.event).order_by(outbox.event.c.sequence))
    assert [row["alarm"] for row in rows] == [False, True]
