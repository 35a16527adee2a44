"""Writing: evacuations, their items, and the answers to wishes about them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import RowMapping, Select, and_, exists, func, insert, not_, select, update

from evac_common.messages.events import InstanceWaiting
from evac_common.model.states import EvacuationState, ItemState, NodeState, OperationState
from evac_common.store.intent import instance_spec, node_spec, node_wish
from evac_common.store.nodes import node_state, proof_node
from evac_common.store.outbox import event
from evac_common.store.placement import evacuation, evacuation_item, scheduler_wish_outcome
from evac_common.store.transaction import Transaction
from evac_scheduler.core import evacuation as items
from evac_scheduler.core.facts import Instance, Proof
from evac_scheduler.ports import Evacuation, ItemChange, MovedItem, Overdue, Wish

_OPEN = evacuation_item.c.state.in_([state.value for state in items.OPEN])


def _with_evacuation() -> Select[Any]:
    return select(
        evacuation_item.c.evacuation_id,
        evacuation.c.node_id,
        node_spec.c.name,
        proof_node.c.created_at.label("proven_at"),
    ).select_from(
        evacuation_item.join(evacuation, evacuation.c.id == evacuation_item.c.evacuation_id)
        .join(proof_node, proof_node.c.id == evacuation.c.proof_id)
        .outerjoin(node_spec, node_spec.c.id == evacuation.c.node_id)
    )


def _moved(row: RowMapping) -> MovedItem:
    return MovedItem(
        evacuation_id=row["evacuation_id"],
        node_id=row["node_id"],
        node=row["name"] or row["node_id"],
        proven_at=row["proven_at"],
    )


class Evacuations:
    tx: Transaction

    async def overdue(self, *, open_s: float, again_s: float) -> list[Overdue]:
        now = self.tx.now
        lately = exists().where(
            event.c.subject == evacuation_item.c.instance_id,
            event.c.name == InstanceWaiting.name,
            event.c.created_at > now - timedelta(seconds=again_s),
        )
        rows = await self.tx.rows(
            select(
                evacuation_item.c.instance_id,
                func.coalesce(instance_spec.c.name, evacuation_item.c.instance_id).label("name"),
                evacuation.c.node_id,
                func.coalesce(node_spec.c.name, evacuation.c.node_id).label("node"),
                evacuation_item.c.created_at,
                evacuation_item.c.reason,
            )
            .select_from(
                evacuation_item.join(evacuation, evacuation.c.id == evacuation_item.c.evacuation_id)
                .outerjoin(node_spec, node_spec.c.id == evacuation.c.node_id)
                .outerjoin(instance_spec, instance_spec.c.id == evacuation_item.c.instance_id)
            )
            .where(_OPEN, evacuation_item.c.created_at <= now - timedelta(seconds=open_s), ~lately)
            .order_by(evacuation_item.c.created_at.desc(), evacuation_item.c.instance_id)
        )
        # Of two evacuations of one instance the older one tells how long it waits.
        found = {
            row["instance_id"]: Overdue(
                instance_id=row["instance_id"],
                instance=row["name"],
                node_id=row["node_id"],
                node=row["node"],
                since=row["created_at"],
                reason=row["reason"],
            )
            for row in rows
        }
        return [found[instance_id] for instance_id in sorted(found)]

    async def evacuation_id(self, node_id: str, incarnation: int) -> str:
        found = await self.tx.scalar(
            select(evacuation.c.id).where(
                evacuation.c.node_id == node_id, evacuation.c.incarnation == incarnation
            )
        )
        return str(found)

    async def open_items(
        self, proof: Proof, node_id: str, instances: Sequence[Instance]
    ) -> int | None:
        found = await self.tx.row(
            select(evacuation.c.id, evacuation.c.state).where(
                evacuation.c.node_id == node_id, evacuation.c.incarnation == proof.incarnation
            )
        )
        evacuation_id = found["id"] if found else self.tx.clock.new_id()
        if found is None:
            await self.tx.execute(
                insert(evacuation).values(
                    id=evacuation_id,
                    node_id=node_id,
                    incarnation=proof.incarnation,
                    proof_id=proof.proof_id,
                    state=EvacuationState.OPEN.value,
                    created_at=self.tx.now,
                )
            )
        added = await self._add_missing(evacuation_id, instances)
        if added and found is not None and found["state"] == EvacuationState.DONE.value:
            await self.tx.execute(
                update(evacuation)
                .where(evacuation.c.id == evacuation_id)
                .values(state=EvacuationState.OPEN.value, finished_at=None)
            )
        return len(instances) if found is None else None

    async def _add_missing(self, evacuation_id: str, instances: Sequence[Instance]) -> int:
        ids = [each.instance_id for each in instances]
        known = {
            row["instance_id"]: ItemState(row["state"])
            for row in await self.tx.rows(
                select(evacuation_item.c.instance_id, evacuation_item.c.state).where(
                    evacuation_item.c.evacuation_id == evacuation_id,
                    evacuation_item.c.instance_id.in_(ids),
                )
            )
        }
        new = [each for each in instances if each.instance_id not in known]
        if new:
            await self.tx.execute(
                insert(evacuation_item), [self._new(evacuation_id, each) for each in new]
            )
        row = items.then(items.On.WANTED)
        again = [each for each in ids if known.get(each) is row.state]
        if again:
            await self.tx.execute(
                update(evacuation_item)
                .where(
                    evacuation_item.c.evacuation_id == evacuation_id,
                    evacuation_item.c.instance_id.in_(again),
                    evacuation_item.c.state == row.state.value,
                )
                .values(state=row.then.value, reason=row.why, next_at=None, updated_at=self.tx.now)
            )
        for each in (*(instance.instance_id for instance in new), *again):
            await self._audit(each, ItemState.PENDING, "its node is proven dead", evacuation_id)
        return len(new) + len(again)

    def _new(self, evacuation_id: str, instance: Instance) -> dict[str, Any]:
        assert instance.claim is not None, "only an owned instance can be evacuated"
        return {
            "evacuation_id": evacuation_id,
            "instance_id": instance.instance_id,
            "source_epoch": instance.claim.epoch,
            "state": ItemState.PENDING.value,
            "attempts": 0,
            "reason": f"its node {instance.claim.node} is proven dead",
            "candidates": [],
            "created_at": self.tx.now,
            "updated_at": self.tx.now,
        }

    async def move_items(self, instance_id: str, to: ItemChange) -> list[MovedItem]:
        row = items.then(to.on)
        here = and_(
            evacuation_item.c.instance_id == instance_id,
            evacuation_item.c.state.in_([state.value for state in items.sources(to.on)]),
        )
        moved = [
            _moved(each)
            for each in await self.tx.rows(
                _with_evacuation().where(here).order_by(evacuation_item.c.evacuation_id)
            )
        ]
        if not moved:
            return []
        values: dict[str, Any] = {
            "state": row.then.value,
            "reason": to.reason,
            "target_node_id": to.target_node_id,
            "target_epoch": to.target_epoch,
            "attempts": to.attempts,
            "next_at": to.next_at,
            "updated_at": self.tx.now,
        }
        if to.candidates is not None:
            values["candidates"] = [dict(candidate) for candidate in to.candidates]
        await self.tx.execute(update(evacuation_item).where(here).values(**values))
        for each in moved:
            await self._audit(instance_id, row.then, to.reason, each.evacuation_id)
        return moved

    async def _audit(
        self, instance_id: str, state: ItemState, reason: str, evacuation_id: str
    ) -> None:
        await self.tx.audit(
            actor="scheduler",
            action="item.state",
            subject=instance_id,
            reason=reason,
            detail={"new": state.value, "evacuation_id": evacuation_id},
        )

    async def planned_evacuations(self, instance_ids: Collection[str]) -> list[MovedItem]:
        ids = sorted(set(instance_ids))
        if not ids:
            return []
        rows = await self.tx.rows(
            _with_evacuation()
            .where(evacuation_item.c.instance_id.in_(ids), _OPEN)
            .order_by(evacuation_item.c.evacuation_id, evacuation_item.c.instance_id)
        )
        return [_moved(row) for row in rows]

    async def finished(self) -> list[Evacuation]:
        of_it = evacuation_item.c.evacuation_id == evacuation.c.id
        rows = await self.tx.rows(
            select(
                evacuation.c.id,
                evacuation.c.node_id,
                node_spec.c.name,
                proof_node.c.created_at.label("proven_at"),
                select(func.count())
                .select_from(evacuation_item)
                .where(of_it)
                .scalar_subquery()
                .label("items"),
            )
            .select_from(
                evacuation.join(proof_node, proof_node.c.id == evacuation.c.proof_id).outerjoin(
                    node_spec, node_spec.c.id == evacuation.c.node_id
                )
            )
            .where(
                evacuation.c.state == EvacuationState.OPEN.value,
                not_(exists(select(evacuation_item.c.instance_id).where(of_it, _OPEN))),
            )
            .order_by(evacuation.c.id)
        )
        closed = []
        for row in rows:
            changed = await self.tx.change(
                update(evacuation)
                .where(
                    evacuation.c.id == row["id"], evacuation.c.state == EvacuationState.OPEN.value
                )
                .values(state=EvacuationState.DONE.value, finished_at=self.tx.now)
            )
            if changed == 1:
                closed.append(
                    Evacuation(
                        evacuation_id=row["id"],
                        node_id=row["node_id"],
                        node=row["name"] or row["node_id"],
                        proven_at=row["proven_at"],
                        items=row["items"],
                    )
                )
        return closed

    async def wishes(self) -> list[Wish]:
        of_node = evacuation.c.node_id == node_wish.c.node_id
        open_items = (
            select(func.count())
            .select_from(
                evacuation.join(evacuation_item, evacuation_item.c.evacuation_id == evacuation.c.id)
            )
            .where(of_node, _OPEN)
        )
        rows = await self.tx.rows(
            select(
                node_wish.c.id,
                node_wish.c.node_id,
                node_wish.c.actor,
                node_spec.c.name,
                node_state.c.state,
                select(func.count())
                .select_from(evacuation)
                .where(of_node)
                .scalar_subquery()
                .label("evacuations"),
                open_items.scalar_subquery().label("open_items"),
            )
            .select_from(
                node_wish.outerjoin(node_spec, node_spec.c.id == node_wish.c.node_id)
                .outerjoin(node_state, node_state.c.node_id == node_wish.c.node_id)
                .outerjoin(
                    scheduler_wish_outcome, scheduler_wish_outcome.c.wish_id == node_wish.c.id
                )
            )
            .where(node_wish.c.verb == "evacuate", scheduler_wish_outcome.c.wish_id.is_(None))
            .order_by(node_wish.c.created_at, node_wish.c.id)
        )
        return [
            Wish(
                wish_id=row["id"],
                node_id=row["node_id"],
                node=row["name"],
                actor=row["actor"],
                state=None if row["state"] is None else NodeState(row["state"]),
                evacuations=row["evacuations"],
                open_items=row["open_items"],
            )
            for row in rows
        ]

    async def answer(self, wish: Wish, *, succeeded: bool, reason: str) -> None:
        result = OperationState.SUCCEEDED if succeeded else OperationState.FAILED
        await self.tx.execute(
            insert(scheduler_wish_outcome).values(
                wish_id=wish.wish_id, result=result.value, reason=reason, created_at=self.tx.now
            )
        )
        await self.tx.audit(
            actor=wish.actor,
            action="wish",
            subject=wish.node_id,
            reason=reason,
            detail={"verb": "evacuate", "wish_id": wish.wish_id, "result": result.value},
        )
