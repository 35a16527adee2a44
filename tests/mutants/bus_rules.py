"""Rules between database and bus: one transaction, an outbox, and everything said again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import RowMapping, update

from evac_common.bus.port import Bus, Outgoing
from evac_common.errors import BusRefused, BusUnavailable, Conflict, Unroutable
from evac_common.messages.commands import Start
from evac_common.messages.registry import Message
from evac_common.relay import relay
from evac_common.relay.relay import Relay
from evac_common.store.engine import Store
from evac_common.store.outbox import outbox
from evac_common.store.transaction import Queued, Transaction
from evac_lab.simulated import cluster
from evac_scheduler import service
from evac_scheduler.adapters.store import SqlDatabase, SqlRecords
from evac_scheduler.loops.starts import Starts
from evac_scheduler.ports import Records
from tests.mutants.patching import Patching

PUBLISH_LIMIT_S: Final = 10.0
SCHEDULER: Final = "scheduler"


def publish_first(patching: Patching) -> None:
    """A start is on the bus before the transaction that decided it is committed."""
    serve, send = service.serve, Transaction.send
    buses: WeakKeyDictionary[Store, Bus] = WeakKeyDictionary()
    of_transaction: WeakKeyDictionary[Transaction, Bus] = WeakKeyDictionary()

    async def serve_(
        settings: Any, *, clock: Any, bus: Bus, store: Store, stop: asyncio.Event
    ) -> None:
        buses[store] = bus
        await serve(settings, clock=clock, bus=bus, store=store, stop=stop)

    @asynccontextmanager
    async def transaction(self: SqlDatabase) -> AsyncIterator[SqlRecords]:
        async with self._store.transaction() as tx:
            of_transaction[tx] = buses[self._store]
            yield SqlRecords(tx)

    async def send_(self: Transaction, message: Message, *, message_id: str) -> Queued:
        queued = await send(self, message, message_id=message_id)
        bus = of_transaction.get(self)
        if bus is None or not isinstance(message, Start):
            return queued
        patching.bite("published before the commit")
        try:
            async with asyncio.timeout(PUBLISH_LIMIT_S):
                await bus.publish(_outgoing(queued))
        except (TimeoutError, BusUnavailable, BusRefused, Unroutable) as error:
            raise Conflict(f"not published, so not committed: {error}") from error
        return queued

    patching.function(service, "serve", serve_)
    patching.function(SqlDatabase, "transaction", transaction)
    patching.function(Transaction, "send", send_)


def _outgoing(queued: Queued) -> Outgoing:
    return Outgoing(
        exchange=queued.exchange,
        routing_key=queued.routing_key,
        headers=queued.headers,
        content_type=queued.content_type,
        body=queued.body,
        message_id=queued.message_id,
    )


def no_outbox(patching: Patching) -> None:
    """The scheduler publishes once, after the commit, what it holds in memory."""
    run, step, in_order = Relay.run, Relay.step, Relay._publish_in_order
    reborn: WeakSet[Relay] = WeakSet()

    async def forget(self: Relay) -> None:
        """Mark as sent what is not sent: with the process, or the broker, it is lost."""
        async with self._store.transaction() as tx:
            lost = await tx.change(
                update(outbox)
                .where(outbox.c.service == self._store.service, outbox.c.sent_at.is_(None))
                .values(sent_at=tx.now)
            )
        if lost:
            patching.bite("lost from memory")

    async def run_(self: Relay) -> None:
        reborn.add(self)
        await run(self)

    async def step_(self: Relay) -> int:
        forgets = self in reborn or not self._bus.health().connected
        if self._store.service == SCHEDULER and forgets:
            reborn.discard(self)
            await forget(self)
        return await step(self)

    async def _publish_in_order(self: Relay, rows: Sequence[RowMapping], done: list[int]) -> None:
        if self._store.service != SCHEDULER:
            return await in_order(self, rows, done)
        for row in rows:
            done.append(row["sequence"])
            try:
                await self._bus.publish(relay._outgoing(row))
            except (BusUnavailable, BusRefused, Unroutable):
                patching.bite(f"{row['exchange']} lost on the way")
        return None

    patching.function(Relay, "run", run_)
    patching.function(Relay, "step", step_)
    patching.function(Relay, "_publish_in_order", _publish_in_order)


def no_resend(patching: Patching) -> None:
    """Commands that nobody answered are not said again."""

    async def resend(self: Starts, records: Records) -> None:
        patching.bite("not said again")

    patching.function(Starts, "resend", resend)


def no_trigger(patching: Patching) -> None:
    """The database takes any owner: the ledger's trigger on assignments is gone."""
    migrate = vars(cluster)["migrate"]

    def migrate_(url: str) -> None:
        import sqlite3

        migrate(url)
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("DROP TRIGGER ownership_insert")
        connection.close()
        patching.bite("trigger dropped")

    patching.function(cluster, "migrate", migrate_)
