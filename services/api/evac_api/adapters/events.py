"""The event table: what happened, for lists and for streams."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from sqlalchemy import RowMapping, Select, delete, func, or_, select

from evac_api.core import views
from evac_api.ports import EventFilter
from evac_common.store import intent, outbox
from evac_common.store.engine import Store

KEPT: Final = timedelta(days=7)
KEYS_KEPT: Final = timedelta(days=1)
#: A transaction may commit this much later than its event got its number (statements are bounded to
#: seconds, see store/engine.py); a stream looks back this far.
LATE: Final = timedelta(seconds=60)


class StoredEvents:
    """`ports.Events` on the database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def since(self, wanted: EventFilter, *, after: int, limit: int) -> list[views.EventView]:
        table = outbox.event
        query = _events(wanted).where(table.c.sequence > after).order_by(table.c.sequence)
        async with self._store.read() as tx:
            return [_view(row) for row in await tx.rows(query.limit(limit))]

    async def latest(self, wanted: EventFilter, *, limit: int) -> list[views.EventView]:
        query = _events(wanted).order_by(outbox.event.c.sequence.desc()).limit(limit)
        async with self._store.read() as tx:
            rows = await tx.rows(query)
        return [_view(row) for row in reversed(rows)]

    async def arrived(
        self, wanted: EventFilter, *, after: int, known: frozenset[int], limit: int
    ) -> list[views.EventView]:
        table = outbox.event
        async with self._store.read() as tx:
            late = (table.c.sequence <= after) & (table.c.created_at > tx.now - LATE)
            query = (
                _events(wanted)
                .where(or_(table.c.sequence > after, late))
                .order_by(table.c.sequence)
                .limit(limit + len(known))
            )
            rows = [row for row in await tx.rows(query) if row["sequence"] not in known]
        return [_view(row) for row in rows[:limit]]

    async def last_sequence(self) -> int:
        async with self._store.read() as tx:
            return int(await tx.scalar(select(func.max(outbox.event.c.sequence))) or 0)

    async def expire(self) -> int:
        """Remove what is past its time: events and idempotency keys. Returns how many events."""
        event, keys = outbox.event, intent.idempotency_key
        async with self._store.transaction() as tx:
            await tx.execute(delete(keys).where(keys.c.created_at < tx.now - KEYS_KEPT))
            return await tx.change(delete(event).where(event.c.created_at < tx.now - KEPT))


def _events(wanted: EventFilter) -> Select[Any]:
    table = outbox.event
    query = select(table)
    if wanted.names:
        exact = [name for name in wanted.names if not name.endswith(".*")]
        families = [name.removesuffix("*") for name in wanted.names if name.endswith(".*")]
        query = query.where(
            or_(
                table.c.name.in_(exact),
                *(table.c.name.startswith(prefix, autoescape=True) for prefix in families),
            )
        )
    if wanted.subject is not None:
        query = query.where(table.c.subject == wanted.subject)
    if wanted.alarms:
        query = query.where(table.c.alarm.is_(True))
    return query


def _view(row: RowMapping) -> views.EventView:
    return views.EventView(
        sequence=row["sequence"],
        id=row["event_id"],
        type=row["type"],
        name=row["name"],
        service=row["service"],
        subject=row["subject"],
        alarm=row["alarm"],
        time=row["created_at"],
        data=row["body"],
    )
