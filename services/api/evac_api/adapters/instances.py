"""Instances: their intent, and what may truthfully be said of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import RowMapping, Select, select, update

from evac_api.adapters import explaining, work
from evac_api.core import explain as core_explain
from evac_api.core import views
from evac_api.core.refusals import Conflict, NotFound
from evac_api.core.status import Seen, is_certain, summary
from evac_api.ports import Answer, Caller
from evac_common.messages import events
from evac_common.model.manifest import InstanceManifest
from evac_common.model.states import NodeState, Phase, RunStrategy
from evac_common.store import intent, nodes, placement
from evac_common.store.engine import Store
from evac_common.store.transaction import Transaction


class StoredInstances:
    """`ports.Instances` on the database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(
        self, *, after: str, limit: int, node: str | None = None
    ) -> views.Page[views.InstanceView]:
        query = _instances().where(intent.instance_spec.c.name > after)
        if node is not None:
            query = query.where(intent.node_spec.c.name == node)
        async with self._store.read() as tx:
            rows = await tx.rows(query.limit(limit + 1))
            items = [_view(tx, row) for row in rows[:limit]]
        return views.Page(items=items, next=items[-1].name if len(rows) > limit else None)

    async def show(self, name: str) -> views.InstanceView:
        async with self._store.read() as tx:
            return await show(tx, name)

    async def explain(self, name: str) -> views.ExplainView:
        async with self._store.read() as tx:
            row = await _row(tx, name)
            facts = await explaining.facts(tx, row, _seen(row))
        return core_explain.explain(facts)

    async def set_running(
        self, caller: Caller, name: str, *, running: bool, reason: str, generation: int | None
    ) -> Answer:
        strategy = RunStrategy.ALWAYS if running else RunStrategy.HALTED

        async def step(tx: Transaction) -> Answer:
            row = await _row(tx, name, lock=True)
            work.check_generation(row, generation)
            if row["deleted_at"] is not None:
                raise Conflict(f"instance {name} is being deleted", hint="wait until it is gone")
            changed = row["run_strategy"] != strategy.value
            goal = row["generation"] + 1 if changed else row["generation"]
            if changed:
                await _set_strategy(tx, row, strategy)
            operation = await work.open_operation(
                tx,
                caller,
                verb="instance.start" if running else "instance.stop",
                target_kind="instance",
                target_id=row["id"],
                target=name,
                reason=reason,
                goal_generation=goal,
            )
            await tx.emit(
                events.InstanceIntent(
                    instance_id=row["id"], instance=name, run_strategy=strategy, why=reason
                )
            )
            await tx.audit(
                actor=caller.actor,
                action=operation.verb,
                subject=row["id"],
                reason=reason,
                detail={"operation_id": operation.id, "generation": goal},
            )
            return work.accepted(operation)

        return await work.once(self._store, caller, step)

    async def delete(self, caller: Caller, name: str, generation: int | None) -> Answer:
        async def step(tx: Transaction) -> Answer:
            row = await _row(tx, name, lock=True)
            work.check_generation(row, generation)
            return work.accepted(await mark_deleted(tx, caller, row))

        return await work.once(self._store, caller, step)


async def _set_strategy(tx: Transaction, row: RowMapping, strategy: RunStrategy) -> None:
    spec = intent.instance_spec
    await tx.execute(
        update(spec)
        .where(spec.c.id == row["id"])
        .values(
            run_strategy=strategy.value,
            manifest={**row["manifest"], "run_strategy": strategy.value},
            generation=spec.c.generation + 1,
            updated_at=tx.now,
        )
    )


async def mark_deleted(tx: Transaction, caller: Caller, row: RowMapping) -> views.OperationView:
    """Note that an instance is to be stopped and its record removed; follow the operation."""
    spec = intent.instance_spec
    name, why = row["name"], f"deleted by {caller.actor}"
    if row["deleted_at"] is None:
        await tx.execute(
            update(spec)
            .where(spec.c.id == row["id"])
            .values(deleted_at=tx.now, generation=spec.c.generation + 1, updated_at=tx.now)
        )
    operation = await work.open_operation(
        tx,
        caller,
        verb="instance.delete",
        target_kind="instance",
        target_id=row["id"],
        target=name,
        reason=why,
    )
    await tx.emit(
        events.InstanceIntent(
            instance_id=row["id"],
            instance=name,
            run_strategy=RunStrategy(row["run_strategy"]),
            deleted=True,
            why=why,
        )
    )
    await tx.audit(
        actor=caller.actor,
        action="instance.delete",
        subject=row["id"],
        reason=why,
        detail={"operation_id": operation.id},
    )
    return operation


def _instances() -> Select[Any]:
    spec, status = intent.instance_spec, placement.instance_status
    node, state = intent.node_spec, nodes.node_state
    return (
        select(
            spec,
            status.c.phase,
            status.c.node_id,
            status.c.epoch,
            status.c.run,
            status.c.reason,
            status.c.candidates,
            status.c.attempts,
            status.c.next_at,
            status.c.observed_at,
            status.c.changed_at,
            node.c.name.label("node"),
            state.c.state.label("node_state"),
            state.c.heard_at.label("node_heard_at"),
        )
        .outerjoin(status, status.c.instance_id == spec.c.id)
        .outerjoin(node, node.c.id == status.c.node_id)
        .outerjoin(state, state.c.node_id == status.c.node_id)
        .order_by(spec.c.name)
    )


async def _row(tx: Transaction, name: str, *, lock: bool = False) -> RowMapping:
    query = _instances().where(intent.instance_spec.c.name == name)
    row = await tx.row(query.with_for_update(of=intent.instance_spec) if lock else query)
    if row is None:
        raise NotFound("instance", name)
    return row


async def show(tx: Transaction, name: str) -> views.InstanceView:
    return _view(tx, await _row(tx, name))


def _seen(row: RowMapping) -> Seen:
    return Seen(
        phase=Phase(row["phase"]) if row["phase"] else None,
        node=row["node"],
        node_state=NodeState(row["node_state"]) if row["node_state"] else None,
        node_heard_at=row["node_heard_at"],
        reason=row["reason"] or "",
        observed_at=row["observed_at"],
        changed_at=row["changed_at"],
        halted=row["run_strategy"] == RunStrategy.HALTED.value,
        deleted=row["deleted_at"] is not None,
    )


def _view(tx: Transaction, row: RowMapping) -> views.InstanceView:
    seen = _seen(row)
    return views.InstanceView(
        id=row["id"],
        name=row["name"],
        spec=InstanceManifest.model_validate(row["manifest"]),
        generation=row["generation"],
        deleted_at=row["deleted_at"],
        status=summary(seen, tx.now),
        certain=is_certain(seen, tx.now) if seen.phase and seen.node else True,
        phase=seen.phase,
        node=row["node"],
        epoch=row["epoch"],
        run=row["run"],
        reason=seen.reason,
        attempts=row["attempts"] or 0,
        next_at=row["next_at"],
        observed_at=row["observed_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
