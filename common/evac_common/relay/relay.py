"""Publish a service's unsent outbox rows, mark them sent, and drop the old ones.

At least once: a crash between publishing and marking publishes again, under the same message id.
Rows are chosen because they are unsent, never because their number is above the last one: numbers
are given before the commit and become visible out of order.

Several replicas of a service may run: on PostgreSQL each holds the rows it publishes
(`SKIP LOCKED`), so a message is normally said once. Rows about one subject are published one after
the other; different subjects overtake each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, Protocol

import structlog
from prometheus_client import Counter, Gauge
from sqlalchemy import RowMapping, Select, delete, select, update

from evac_common.bus.port import BusHealth, Outgoing
from evac_common.errors import BusRefused, BusUnavailable, StoreUnavailable, Unroutable
from evac_common.service.clock import Clock
from evac_common.service.periodic import Wake, periodically
from evac_common.store.engine import Store
from evac_common.store.outbox import outbox
from evac_common.store.transaction import Transaction

MESSAGES = Counter("evac_relay_messages_total", "Outbox rows, by outcome.", ["service", "outcome"])
DROPPED = Counter("evac_relay_dropped_total", "Sent outbox rows that were deleted.", ["service"])
AGE = Gauge(
    "evac_relay_oldest_seconds", "Age of the oldest unsent row at the last look.", ["service"]
)

WINDOW: Final = 100  # rows of one batch, so also the most that are in flight
RETRY_S: Final = 1.0  # while something is left to send
IDLE_S: Final = 5.0  # else: a commit wakes it, but a replica may have died before it published
PUBLISH_LIMIT_S: Final = 15.0  # of a batch; below the database's limit for an idle transaction
REFUSED_PAUSE_S: Final = 60.0  # a message that the broker refused is tried again after this
KEEP_S: Final = 3600.0  # how long a sent row stays, for people who look
SWEEP_S: Final = 60.0
SWEEP_ROWS: Final = 5000  # deleted in one transaction


class _OutboxWake(Wake):
    """Nudged by the store itself, after each commit that wrote outbox rows."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._event = store.outbox_wake


class Publisher(Protocol):
    """The part of a bus that a relay needs."""

    def health(self) -> BusHealth: ...

    async def publish(self, message: Outgoing) -> None: ...


class Relay:
    """Publishes what this store's service put into its outbox."""

    def __init__(self, store: Store, bus: Publisher, clock: Clock, *, window: int = WINDOW) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._window = window
        self._log = structlog.get_logger().bind(service=store.service)
        self._away = False  # an outage is logged once
        self._refused: dict[int, float] = {}  # sequence → not before (monotonic, seconds)
        self._swept_s: float | None = None
        self._idle = False  # the last look found nothing that is left to send

    async def run(self) -> None:
        """Relay for ever. Loss of the broker or the database only delays."""
        await periodically(
            f"{self._store.service} relay",
            lambda: IDLE_S if self._idle else RETRY_S,
            self.step,
            clock=self._clock,
            wake=_OutboxWake(self._store),
        )

    async def step(self) -> int:
        """Publish until nothing is left, or broker or database is away. Returns how many went."""
        self._idle = False
        if not self._bus.health().connected:
            return 0  # an outage of the broker costs the database nothing
        sent = 0
        try:
            while True:
                seen, done = await self._batch()
                sent += done
                if done < seen or seen < self._window:
                    break
            await self._sweep()
            self._idle = done == seen and not self._refused
        except StoreUnavailable as error:
            self._outage(str(error))
        return sent

    async def _batch(self) -> tuple[int, int]:
        """One batch: how many rows were seen, how many of them are sent now."""
        if self._store.dialect == "postgresql":
            # The rows stay locked while they are published: a second relay takes others.
            async with self._store.transaction() as tx:
                rows = await tx.rows(self._unsent().with_for_update(skip_locked=True))
                done = await self._publish(rows)
                await self._mark(tx, done)
        else:
            # A writer would shut out everyone else of this process while it waits for the broker.
            async with self._store.read() as tx:
                rows = await tx.rows(self._unsent())
            done = await self._publish(rows)
            if done:
                async with self._store.transaction() as tx:
                    await self._mark(tx, done)
        AGE.labels(self._store.service).set(
            (self._clock.now() - rows[0]["created_at"]).total_seconds() if rows else 0.0
        )
        return len(rows), len(done)

    def _unsent(self) -> Select[Any]:
        now_s = self._clock.monotonic()
        self._refused = {row: at_s for row, at_s in self._refused.items() if at_s > now_s}
        return (
            select(outbox)
            .where(outbox.c.service == self._store.service, outbox.c.sent_at.is_(None))
            .where(outbox.c.sequence.not_in(list(self._refused)))
            .order_by(outbox.c.sequence)
            .limit(self._window)
        )

    async def _mark(self, tx: Transaction, done: Sequence[int]) -> None:
        if done:
            await tx.execute(
                update(outbox).where(outbox.c.sequence.in_(list(done))).values(sent_at=tx.now)
            )

    async def _publish(self, rows: Sequence[RowMapping]) -> list[int]:
        """Publish rows; returns the sequences that need no further attempt."""
        queues: dict[str, list[RowMapping]] = {}
        for row in rows:
            queues.setdefault(_subject(row), []).append(row)
        done: list[int] = []
        try:
            async with asyncio.timeout(PUBLISH_LIMIT_S), asyncio.TaskGroup() as group:
                for queue in queues.values():
                    group.create_task(self._publish_in_order(queue, done))
        except TimeoutError:
            self._outage("the broker did not confirm in time")
        else:
            if done:
                self._recovered()
        return sorted(done)

    async def _publish_in_order(self, rows: Sequence[RowMapping], done: list[int]) -> None:
        for row in rows:
            try:
                await self._bus.publish(_outgoing(row))
            except BusUnavailable as error:
                self._count("kept")
                self._outage(str(error))
                return  # it may have arrived: it is published again, before what follows it
            except Unroutable:
                # A node's queue is missing. The reconciler sends again, so nothing is lost with it.
                self._count("unroutable")
                self._log.warning("message has no queue", **_facts(row))
            except BusRefused as error:
                self._count("refused")
                self._refused[row["sequence"]] = self._clock.monotonic() + REFUSED_PAUSE_S
                self._log.error("broker refused a message", **_facts(row), why=str(error))
                continue
            else:
                self._count("sent")
            done.append(row["sequence"])

    async def _sweep(self) -> None:
        now_s = self._clock.monotonic()
        if self._swept_s is not None and now_s - self._swept_s < SWEEP_S:
            return
        dropped = SWEEP_ROWS
        while dropped == SWEEP_ROWS:
            async with self._store.transaction() as tx:
                dropped = await tx.change(self._old(tx))
            DROPPED.labels(self._store.service).inc(dropped)
        self._swept_s = now_s

    def _old(self, tx: Transaction) -> Any:
        old = (
            select(outbox.c.sequence)
            .where(outbox.c.service == self._store.service)
            .where(outbox.c.sent_at < tx.now - timedelta(seconds=KEEP_S))
            .limit(SWEEP_ROWS)
        )
        return delete(outbox).where(outbox.c.sequence.in_(old))

    def _outage(self, why: str) -> None:
        if not self._away:
            self._log.warning("relay waits", why=why)
        self._away = True

    def _recovered(self) -> None:
        if self._away:
            self._log.info("relay works again")
        self._away = False

    def _count(self, outcome: str) -> None:
        MESSAGES.labels(self._store.service, outcome).inc()


def _subject(row: RowMapping) -> str:
    """What the message is about: the order of messages with the same answer is kept."""
    return f"{row['exchange']} {row['headers'].get('ce-subject', row['routing_key'])}"


def _outgoing(row: RowMapping) -> Outgoing:
    return Outgoing(
        exchange=row["exchange"],
        routing_key=row["routing_key"],
        headers=row["headers"],
        content_type=row["content_type"],
        body=row["body"],
        message_id=row["message_id"],
    )


def _facts(row: RowMapping) -> dict[str, str]:
    return {"message_id": row["message_id"], "routing_key": row["routing_key"]}
