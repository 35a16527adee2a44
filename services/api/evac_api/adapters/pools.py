"""Pools: what is declared of storage that instances' disks live in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import RowMapping, delete, select

from evac_api.adapters import work
from evac_api.core import views
from evac_api.core.refusals import Conflict, NotFound
from evac_api.ports import Answer, Caller
from evac_common.store import intent
from evac_common.store.engine import Store
from evac_common.store.transaction import Transaction


class StoredPools:
    """`ports.Pools` on the database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, *, after: str, limit: int) -> views.Page[views.PoolView]:
        pool = intent.pool
        async with self._store.read() as tx:
            rows = await tx.rows(
                select(pool).where(pool.c.name > after).order_by(pool.c.name).limit(limit + 1)
            )
            items = await _views(tx, rows[:limit])
        return views.Page(items=items, next=items[-1].name if len(rows) > limit else None)

    async def show(self, name: str) -> views.PoolView:
        async with self._store.read() as tx:
            return await show(tx, name)

    async def delete(self, caller: Caller, name: str, generation: int | None) -> Answer:
        async def step(tx: Transaction) -> Answer:
            row = await _row(tx, name, lock=True)
            work.check_generation(row, generation)
            await remove(tx, caller, row, (await users(tx)).get(name, []))
            return Answer(status=204)

        return await work.once(self._store, caller, step)


async def show(tx: Transaction, name: str) -> views.PoolView:
    return (await _views(tx, [await _row(tx, name)]))[0]


async def remove(tx: Transaction, caller: Caller, row: RowMapping, used_by: Sequence[str]) -> None:
    """Remove a pool. Raises Conflict while an instance that is to stay has a disk in it."""
    if used_by:
        raise Conflict(
            f"pool {row['name']} has disks of {', '.join(used_by[:3])}"
            + (f" and {len(used_by) - 3} more" if len(used_by) > 3 else ""),
            hint="delete these instances first",
        )
    await tx.execute(delete(intent.pool).where(intent.pool.c.id == row["id"]))
    await tx.audit(
        actor=caller.actor,
        action="pool.delete",
        subject=row["id"],
        reason=f"deleted pool {row['name']}",
    )


async def users(tx: Transaction) -> dict[str, list[str]]:
    """Pool → names of the instances with a disk in it that are not being deleted."""
    spec = intent.instance_spec
    found: dict[str, list[str]] = {}
    query = select(spec.c.name, spec.c.manifest).where(spec.c.deleted_at.is_(None))
    for row in await tx.rows(query.order_by(spec.c.name)):
        for name in sorted({disk["pool"] for disk in row["manifest"]["disks"]}):
            found.setdefault(name, []).append(row["name"])
    return found


async def node_names(tx: Transaction) -> dict[str, str]:
    spec = intent.node_spec
    return {row["id"]: row["name"] for row in await tx.rows(select(spec.c.id, spec.c.name))}


async def _row(tx: Transaction, name: str, *, lock: bool = False) -> RowMapping:
    query = select(intent.pool).where(intent.pool.c.name == name)
    row = await tx.row(query.with_for_update() if lock else query)
    if row is None:
        raise NotFound("pool", name)
    return row


async def _views(tx: Transaction, rows: Sequence[RowMapping]) -> list[views.PoolView]:
    names, used = await node_names(tx), await users(tx)
    return [view(row, names, len(used.get(row["name"], []))) for row in rows]


def view(row: RowMapping, names: Mapping[str, str], instances: int) -> views.PoolView:
    return views.PoolView(
        id=row["id"],
        name=row["name"],
        kind=row["kind"],
        source=row["source"],
        lock_scope=row["lock_scope"],
        nodes=[names[node_id] for node_id in row["nodes"] if node_id in names],
        generation=row["generation"],
        instances=instances,
    )
