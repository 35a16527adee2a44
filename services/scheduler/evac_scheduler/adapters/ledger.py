"""Writing: the ledger, releases, status rows, reservations. Every update is a compare-and-set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select, update

from evac_common.model.states import NodeState, Phase, ReleaseKind
from evac_common.store.columns import UtcTime
from evac_common.store.intent import node_spec
from evac_common.store.nodes import node_state
from evac_common.store.placement import (
    command,
    instance_status,
    ownership,
    planning_lock,
    proof_release,
    reservation,
)
from evac_common.store.transaction import Transaction
from evac_scheduler.core.facts import Claim, Instance
from evac_scheduler.core.placement import NodeView
from evac_scheduler.ports import Booking, LostBooking, StatusChange

_OBSERVED: Final = (
    update(instance_status)
    .where(instance_status.c.instance_id.in_(bindparam("ids", expanding=True)))
    .values(observed_at=bindparam("at", type_=UtcTime))
)  # for every inventory, so made once


class Ledger:
    tx: Transaction

    async def lock_planning(self) -> None:
        await self.tx.execute(
            select(planning_lock.c.id).where(planning_lock.c.id == 1).with_for_update()
        )

    async def planned(self, took_s: float) -> None:
        await self.tx.execute(
            update(planning_lock)
            .where(planning_lock.c.id == 1)
            .values(planned_at=self.tx.now, took_s=took_s)
        )

    async def assign(self, instance: Instance, node: NodeView) -> Claim:
        epoch = 1 if instance.claim is None else instance.claim.epoch + 1
        proof_id = None
        if instance.release_id is None and instance.proof is not None:
            proof_id = instance.proof.proof_id
        await self.tx.execute(
            insert(ownership).values(
                instance_id=instance.instance_id,
                epoch=epoch,
                node_id=node.node_id,
                term=node.gen.term,
                incarnation=node.gen.incarnation,
                run=1,
                proof_node_id=proof_id,
                proof_release_id=instance.release_id,
                created_at=self.tx.now,
            )
        )
        claim = Claim(
            epoch=epoch,
            node_id=node.node_id,
            node=node.name,
            incarnation=node.gen.incarnation,
            run=1,
        )
        await self.tx.audit(
            actor="scheduler",
            action="ledger.assign",
            subject=instance.instance_id,
            reason=f"epoch {epoch} to {node.name}",
            detail={
                "node_id": node.node_id,
                "proof_node": proof_id,
                "proof_release": instance.release_id,
            },
        )
        return claim

    async def next_run(self, instance: Instance) -> Claim | None:
        claim = instance.claim
        assert claim is not None, "only an owner can start an instance again"
        raised = await self.tx.change(
            update(ownership)
            .where(
                ownership.c.instance_id == instance.instance_id,
                ownership.c.epoch == claim.epoch,
                ownership.c.run == claim.run,
            )
            .values(run=claim.run + 1)
        )
        return replace(claim, run=claim.run + 1) if raised == 1 else None

    async def release(self, instance: Instance, kind: ReleaseKind, evidence: str) -> None:
        claim = instance.claim
        assert claim is not None, "only an owner can release"
        await self.tx.execute(
            insert(proof_release).values(
                id=self.tx.clock.new_id(),
                instance_id=instance.instance_id,
                epoch=claim.epoch,
                node_id=claim.node_id,
                kind=kind.value,
                evidence=evidence,
                created_at=self.tx.now,
            )
        )
        await self.tx.audit(
            actor="scheduler",
            action="ledger.release",
            subject=instance.instance_id,
            reason=f"epoch {claim.epoch} on {claim.node}: {evidence}",
            detail={"kind": kind.value},
        )

    # status

    async def introduce(self, instances: Sequence[Instance]) -> None:
        if not instances:
            return
        await self.tx.execute(
            insert(instance_status),
            [
                {
                    "instance_id": each.instance_id,
                    "phase": Phase.PENDING.value,
                    "reason": "new",
                    "candidates": [],
                    "attempts": 0,
                    "changed_at": self.tx.now,
                }
                for each in instances
            ],
        )

    async def change(self, instance: Instance, to: StatusChange) -> bool:
        same = instance.phase is to.phase
        values: dict[str, Any] = {
            "phase": to.phase.value,
            "reason": to.why,
            "attempts": to.attempts,
            "next_at": to.next_at,
            "node_id": to.node_id,
            "epoch": to.epoch,
            "run": to.run,
        }
        if not same:
            values["changed_at"] = self.tx.now
        if to.observed:
            values["observed_at"] = self.tx.now
        if to.candidates is not None:
            values["candidates"] = [dict(candidate) for candidate in to.candidates]
        was = instance.phase or Phase.PENDING
        changed = await self.tx.change(
            update(instance_status)
            .where(
                instance_status.c.instance_id == instance.instance_id,
                instance_status.c.phase == was.value,
                instance_status.c.attempts == instance.attempts,
                instance_status.c.epoch.is_not_distinct_from(instance.seen_epoch),
                instance_status.c.run.is_not_distinct_from(instance.seen_run),
            )
            .values(**values)
        )
        if changed != 1:
            return False
        if not same:
            await self.tx.audit(
                actor="scheduler",
                action="instance.phase",
                subject=instance.instance_id,
                reason=to.why,
                detail={"old": was.value, "new": to.phase.value, "epoch": to.epoch, "run": to.run},
            )
        return True

    async def observed(self, instance_ids: Collection[str]) -> None:
        ids = sorted(set(instance_ids))
        if ids:
            await self.tx.execute(_OBSERVED, {"ids": ids, "at": self.tx.now})

    async def clear_away(self, instance_id: str) -> None:
        await self.tx.execute(delete(reservation).where(reservation.c.instance_id == instance_id))
        await self.tx.execute(delete(command).where(command.c.instance_id == instance_id))
        await self.tx.execute(
            delete(instance_status).where(instance_status.c.instance_id == instance_id)
        )

    # reservations

    async def book(self, bookings: Sequence[Booking]) -> None:
        if not bookings:
            return
        await self.tx.execute(
            insert(reservation),
            [
                {
                    "instance_id": booking.instance_id,
                    "node_id": booking.node_id,
                    "vcpus": booking.vcpus,
                    "memory_mib": booking.memory_mib,
                    "created_at": self.tx.now,
                }
                for booking in bookings
            ],
        )

    async def unbook(self, instance_ids: Collection[str]) -> None:
        ids = sorted(set(instance_ids))
        if ids:
            await self.tx.execute(delete(reservation).where(reservation.c.instance_id.in_(ids)))

    async def lost_bookings(self) -> list[LostBooking]:
        rows = await self.tx.rows(
            select(
                reservation.c.instance_id,
                reservation.c.node_id,
                node_spec.c.name,
                node_state.c.state,
            )
            .select_from(
                reservation.outerjoin(node_spec, node_spec.c.id == reservation.c.node_id).outerjoin(
                    node_state, node_state.c.node_id == reservation.c.node_id
                )
            )
            .order_by(reservation.c.instance_id)
        )
        return [
            LostBooking(
                instance_id=row["instance_id"],
                node=row["name"] or row["node_id"],
                state=row["state"] or "unknown",
            )
            for row in rows
            if row["state"] != NodeState.UP.value
        ]
