"""Operations: what was asked for, and whether it holds, by looking at the owners' tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import RowMapping, Select, delete, exists, insert, or_, select, update
from sqlalchemy.sql import ColumnElement

from evac_api.adapters import reads, work
from evac_api.core import operations as core
from evac_api.core import views
from evac_api.core.refusals import NotFound
from evac_api.ports import Answer, Caller
from evac_common.messages import events
from evac_common.model.states import NodeState, OperationState, Phase, RunStrategy
from evac_common.store import intent, nodes, placement
from evac_common.store.engine import Store
from evac_common.store.transaction import Transaction

PENDING: Final = OperationState.PENDING.value
BATCH_MAX: Final = 2000  # open operations looked at in one step, oldest first
_ANY_OPEN: Final = select(
    or_(
        exists().where(intent.operation.c.state == PENDING),
        exists().where(intent.instance_spec.c.deleted_at.is_not(None)),
    )
)


class StoredOperations:
    """`ports.Operations` on the database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(
        self, *, after: str, limit: int, state: str | None, request_id: str | None
    ) -> views.Page[views.OperationView]:
        """Newest first; `after` is the id of the last one seen."""
        table = intent.operation
        query = select(table).order_by(table.c.created_at.desc(), table.c.id).limit(limit + 1)
        if state is not None:
            query = query.where(table.c.state == state)
        if request_id is not None:
            query = query.where(table.c.request_id == request_id)
        async with self._store.read() as tx:
            if after:
                query = query.where(_beyond(await _row(tx, after)))
            rows = await tx.rows(query)
        items = [work.operation_view(row) for row in rows[:limit]]
        return views.Page(items=items, next=items[-1].id if len(rows) > limit else None)

    async def show(self, operation_id: str) -> views.OperationView:
        async with self._store.read() as tx:
            return work.operation_view(await _row(tx, operation_id))

    async def refused(self, caller: Caller, verb: str, target: str, why: str) -> None:
        """Once per request: a refusal that is delivered again is not recorded again."""
        async with self._store.transaction() as tx:
            known = await work.stored(tx, caller)
            if known is not None and known["digest"] == caller.digest:
                return
            row: dict[str, Any] = {
                "id": tx.clock.new_id(),
                "verb": verb,
                "target_kind": verb.partition(".")[0],
                "target_id": target,
                "target_name": target,
                "actor": caller.actor,
                "reason": "",
                "request_id": caller.request_id or None,
                "state": OperationState.FAILED.value,
                "message": why,
                "created_at": tx.now,
                "updated_at": tx.now,
            }
            await tx.execute(insert(intent.operation).values(**row))
            await tx.emit(_event(row, OperationState.FAILED, why))
            await tx.audit(actor=caller.actor, action=f"{verb}.refused", subject=target, reason=why)
            if known is None:
                await work.remember(tx, caller, Answer(status=409))

    async def any_open(self) -> bool:
        async with self._store.read() as tx:
            return bool(await tx.scalar(_ANY_OPEN))

    async def settle(self) -> int:
        """Each outcome in a transaction of its own: a compare-and-set another replica may win."""
        async with self._store.read() as tx:
            table = intent.operation
            rows = await tx.rows(
                select(table)
                .where(table.c.state == PENDING)
                .order_by(table.c.created_at, table.c.id)
                .limit(BATCH_MAX)
            )
            facts = await _facts(tx, rows)
        left = 0
        for row in rows:
            asked = core.Operation(id=row["id"], verb=row["verb"], created_at=row["created_at"])
            outcome = core.settle(asked, facts[row["id"]])
            left += outcome.state is OperationState.PENDING
            if outcome.message != row["message"] or outcome.state is not OperationState.PENDING:
                await self._record(row, outcome)
        return left

    async def _record(self, row: RowMapping, outcome: core.Outcome) -> None:
        table = intent.operation
        async with self._store.transaction() as tx:
            changed = await tx.change(
                update(table)
                .where(table.c.id == row["id"], table.c.state == PENDING)
                .values(state=outcome.state.value, message=outcome.message, updated_at=tx.now)
            )
            if changed != 1 or outcome.state is OperationState.PENDING:
                return
            await tx.emit(_event(row, outcome.state, outcome.message))
            await tx.audit(
                actor=row["actor"],
                action=f"operation.{outcome.state.value}",
                subject=row["target_id"],
                reason=outcome.message,
                detail={"operation_id": row["id"], "verb": row["verb"]},
            )

    async def purge(self) -> int:
        async with self._store.read() as tx:
            rows = await tx.rows(reads.instance_remains().limit(BATCH_MAX))
        left = 0
        for row in rows:
            left += not (_may_go(row) and await self._remove(row["id"]))
        return left

    async def _remove(self, instance_id: str) -> bool:
        """Look again in the transaction that removes: a wave may have placed it in between."""
        spec = intent.instance_spec
        async with self._store.transaction() as tx:
            row = await tx.row(reads.instance_remains().where(spec.c.id == instance_id))
            if row is None or not _may_go(row):
                return row is None
            await tx.execute(delete(spec).where(spec.c.id == instance_id))
            why = "its last owner released it or is proven dead" if row["phase"] else "it never ran"
            await tx.emit(
                events.InstanceDeleted(instance_id=instance_id, instance=row["name"], why=why)
            )
            await tx.audit(actor="api", action="instance.purge", subject=instance_id, reason=why)
        return True


def _may_go(row: RowMapping) -> bool:
    return core.may_be_purged(
        core.Remains(
            owned=row["held_by"] is not None,
            reserved=bool(row["reserved"]),
            phase=Phase(row["phase"]) if row["phase"] else None,
        )
    )


def _beyond(row: RowMapping) -> ColumnElement[bool]:
    table = intent.operation
    return or_(
        table.c.created_at < row["created_at"],
        (table.c.created_at == row["created_at"]) & (table.c.id > row["id"]),
    )


async def _row(tx: Transaction, operation_id: str) -> RowMapping:
    row = await tx.row(select(intent.operation).where(intent.operation.c.id == operation_id))
    if row is None:
        raise NotFound("operation", operation_id)
    return row


def _event(
    row: RowMapping | Mapping[str, Any], state: OperationState, message: str
) -> events.OfOperation:
    kind = (
        events.OperationSucceeded if state is OperationState.SUCCEEDED else events.OperationFailed
    )
    return kind(
        operation_id=row["id"],
        request_id=row["request_id"] or "",
        verb=row["verb"],
        target=row["target_name"],
        actor=row["actor"],
        message=message,
    )


async def _facts(tx: Transaction, rows: Iterable[RowMapping]) -> dict[str, core.Facts]:
    found = list(rows)
    answers = await _answers(tx, [row["wish_id"] for row in found if row["wish_id"]])
    ids = {kind: [r["target_id"] for r in found if r["target_kind"] == kind] for kind in _KINDS}
    instances = await _instances(tx, ids["instance"])
    known_nodes = await _nodes(tx, ids["node"])
    return {
        row["id"]: core.Facts(
            answered=answers.get(row["wish_id"]),
            instance=instances.get(row["target_id"], core.InstanceFacts(exists=False))
            if row["target_kind"] == "instance"
            else None,
            node=known_nodes.get(row["target_id"], core.NodeFacts(exists=False))
            if row["target_kind"] == "node"
            else None,
        )
        for row in found
    }


_KINDS: Final = ("instance", "node")


async def _answers(tx: Transaction, wish_ids: list[str]) -> dict[str, core.Answered]:
    """What the wishes' owners answered, whichever of them it was."""
    answers: dict[str, core.Answered] = {}
    for table in (nodes.monitor_wish_outcome, placement.scheduler_wish_outcome):
        for some in reads.chunks(wish_ids):
            for row in await tx.rows(select(table).where(table.c.wish_id.in_(some))):
                succeeded = row["result"] == OperationState.SUCCEEDED.value
                answers[row["wish_id"]] = core.Answered(succeeded=succeeded, reason=row["reason"])
    return answers


async def _instances(tx: Transaction, ids: list[str]) -> dict[str, core.InstanceFacts]:
    found: dict[str, core.InstanceFacts] = {}
    for some in reads.chunks(ids):
        for row in await tx.rows(_instance_query(some)):
            found[row["id"]] = core.InstanceFacts(
                exists=True,
                deleted=row["deleted_at"] is not None,
                run_strategy=RunStrategy(row["run_strategy"]),
                phase=Phase(row["phase"]) if row["phase"] else None,
                reason=row["reason"] or "",
                node=row["node"] or "",
                node_up=row["state"] in (NodeState.UP.value, NodeState.DEGRADED.value),
                owned=row["held_by"] is not None,
                reserved=row["reserved"] is not None,
            )
    return found


def _instance_query(ids: Iterable[str]) -> Select[Any]:
    spec, status, node = intent.instance_spec, placement.instance_status, intent.node_spec
    reservation, state, held = placement.reservation, nodes.node_state, reads.holding()
    return (
        select(
            spec.c.id,
            spec.c.deleted_at,
            spec.c.run_strategy,
            status.c.phase,
            status.c.reason,
            node.c.name.label("node"),
            state.c.state,
            held.c.node_id.label("held_by"),
            reservation.c.node_id.label("reserved"),
        )
        .outerjoin(status, status.c.instance_id == spec.c.id)
        .outerjoin(node, node.c.id == status.c.node_id)
        .outerjoin(state, state.c.node_id == status.c.node_id)
        .outerjoin(held, held.c.instance_id == spec.c.id)
        .outerjoin(reservation, reservation.c.instance_id == spec.c.id)
        .where(spec.c.id.in_(list(ids)))
    )


async def _nodes(tx: Transaction, ids: list[str]) -> dict[str, core.NodeFacts]:
    spec, state, proof = intent.node_spec, nodes.node_state, nodes.proof_node
    found: dict[str, core.NodeFacts] = {}
    for some in reads.chunks(ids):
        proven = {
            row["node_id"]: row["created_at"]
            for row in await tx.rows(
                select(proof.c.node_id, proof.c.created_at)
                .where(proof.c.node_id.in_(some))
                .order_by(proof.c.created_at)
            )
        }
        query = (
            select(spec.c.id, state.c.state, state.c.reason)
            .outerjoin(state, state.c.node_id == spec.c.id)
            .where(spec.c.id.in_(some))
        )
        for row in await tx.rows(query):
            found[row["id"]] = core.NodeFacts(
                exists=True,
                state=NodeState(row["state"]) if row["state"] else None,
                reason=row["reason"] or "",
                proven_at=proven.get(row["id"]),
            )
    return found
