"""Reading and writing what nodes show while the database may have gone back in time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import and_, bindparam, delete, func, insert, select, update

from evac_common.model.identity import Gen
from evac_common.model.states import NodeState
from evac_common.store import regress
from evac_common.store.intent import instance_spec, node_spec
from evac_common.store.nodes import node_state, proof_node
from evac_common.store.placement import (
    node_inventory,
    ownership,
    proof_adoption,
    proof_release,
    recovery,
    sighting,
)
from evac_common.store.transaction import Transaction
from evac_scheduler.core import recovery as core
from evac_scheduler.core.facts import Claim
from evac_scheduler.core.reports import Speaker
from evac_scheduler.ports import Shown

_LATER = ownership.alias("later")
_REMEMBERED: Final = select(sighting).where(sighting.c.node_id == bindparam("id"))


class Recoveries:
    tx: Transaction

    async def distrust(self) -> str:
        return (await regress.look(self.tx)).why

    # what nodes show

    async def remembered(self, node_id: str) -> dict[str, Mapping[str, Any]]:
        found = await self.tx.rows(_REMEMBERED, {"id": node_id})
        return {row["instance_id"]: dict(row) for row in found}

    async def show(
        self,
        speaker: Speaker,
        shown: Sequence[Shown],
        *,
        before: Mapping[str, Mapping[str, Any]],
        gone: Collection[str],
    ) -> None:
        node_id, gen = speaker.node_id, speaker.gen
        for each in shown:
            values: dict[str, Any] = {
                "epoch": each.epoch,
                "run": each.run,
                "running": each.running,
                "term": gen.term,
                "incarnation": gen.incarnation,
                "explained": each.explained,
            }
            row = before.get(each.instance_id)
            if row is None:
                await self.tx.execute(
                    insert(sighting).values(
                        instance_id=each.instance_id,
                        node_id=node_id,
                        judged_term=0,
                        seen_at=self.tx.now,
                        **values,
                    )
                )
            elif any(row[name] != value for name, value in values.items()):
                # Another epoch than the one that was judged is news.
                judged = row["judged_term"] if row["epoch"] == each.epoch else 0
                await self.tx.execute(
                    update(sighting)
                    .where(sighting.c.instance_id == each.instance_id)
                    .where(sighting.c.node_id == node_id)
                    .values(judged_term=judged, seen_at=self.tx.now, **values)
                )
        ended = sorted(set(gone) & before.keys())
        if ended:
            await self.tx.execute(
                delete(sighting)
                .where(sighting.c.node_id == node_id)
                .where(sighting.c.instance_id.in_(ended))
            )

    async def taken(self, speaker: Speaker) -> None:
        node_id, gen = speaker.node_id, speaker.gen
        row = await self.tx.row(select(node_inventory).where(node_inventory.c.node_id == node_id))
        values = {"term": gen.term, "incarnation": gen.incarnation, "taken_at": self.tx.now}
        if row is None:
            await self.tx.execute(insert(node_inventory).values(node_id=node_id, **values))
        elif Gen(row["term"], row["incarnation"]) != gen:
            await self.tx.execute(
                update(node_inventory).where(node_inventory.c.node_id == node_id).values(**values)
            )

    # the end of a recovery

    async def recovery(self) -> core.Waits | core.Adopt | None:
        look = await regress.look(self.tx)
        if not look.recovering:
            return None
        if await self.tx.row(select(recovery.c.term).where(recovery.c.term == look.term)):
            return None  # done: the monitor ends it
        sightings = await self._sightings(look.term)
        ids = sorted({each.instance_id for each in sightings})
        return core.decide(
            look.term, await self._nodes(), sightings, await self._ends(ids), await self._declared()
        )

    async def _nodes(self) -> list[core.Node]:
        rows = await self.tx.rows(
            select(
                node_state.c.node_id,
                func.coalesce(node_spec.c.name, node_state.c.node_id).label("name"),
                node_state.c.state,
                node_state.c.term,
                node_state.c.incarnation,
                node_state.c.down_term,
                node_inventory.c.term.label("shown_term"),
                node_inventory.c.incarnation.label("shown_incarnation"),
            )
            .select_from(
                node_state.outerjoin(node_spec, node_spec.c.id == node_state.c.node_id).outerjoin(
                    node_inventory, node_inventory.c.node_id == node_state.c.node_id
                )
            )
            .order_by(node_state.c.node_id)
        )
        return [
            core.Node(
                node_id=row["node_id"],
                name=row["name"],
                state=NodeState(row["state"]),
                term=row["term"],
                incarnation=row["incarnation"],
                down_term=row["down_term"],
                shown_term=row["shown_term"] or 0,
                shown_incarnation=row["shown_incarnation"] or 0,
            )
            for row in rows
        ]

    async def _sightings(self, term: int) -> list[core.Sighting]:
        rows = await self.tx.rows(
            select(sighting, func.coalesce(node_spec.c.name, sighting.c.node_id).label("node"))
            .select_from(sighting.outerjoin(node_spec, node_spec.c.id == sighting.c.node_id))
            .where(sighting.c.term == term, regress.LIVING_SIGHTING)
            .order_by(sighting.c.instance_id, sighting.c.node_id)
        )
        return [
            core.Sighting(
                instance_id=row["instance_id"],
                node_id=row["node_id"],
                node=row["node"],
                epoch=row["epoch"],
                run=row["run"],
                running=row["running"],
                incarnation=row["incarnation"],
                explained=row["explained"],
            )
            for row in rows
        ]

    async def _ends(self, instance_ids: Sequence[str]) -> dict[str, core.Last]:
        dead = (
            select(proof_node.c.id)
            .where(
                proof_node.c.node_id == ownership.c.node_id,
                proof_node.c.incarnation >= ownership.c.incarnation,
            )
            .exists()
        )
        rows = await self.tx.rows(
            select(
                ownership.c.instance_id,
                ownership.c.epoch,
                proof_release.c.id.label("release_id"),
                dead.label("dead"),
            )
            .select_from(
                ownership.outerjoin(
                    proof_release,
                    and_(
                        proof_release.c.instance_id == ownership.c.instance_id,
                        proof_release.c.epoch == ownership.c.epoch,
                    ),
                )
            )
            .where(
                ownership.c.instance_id.in_(list(instance_ids)),
                ownership.c.epoch
                == select(func.max(_LATER.c.epoch))
                .where(_LATER.c.instance_id == ownership.c.instance_id)
                .scalar_subquery(),
            )
        )
        return {
            row["instance_id"]: core.Last(
                epoch=row["epoch"], over=row["release_id"] is not None or bool(row["dead"])
            )
            for row in rows
        }

    async def _declared(self) -> set[str]:
        rows = await self.tx.rows(
            select(instance_spec.c.id).where(instance_spec.c.deleted_at.is_(None))
        )
        return {row["id"] for row in rows}

    async def adopt(self, epoch: core.Sighting) -> Claim:
        term = (await regress.look(self.tx)).term
        proof_id = self.tx.clock.new_id()
        known = await self.tx.scalar(
            select(func.max(ownership.c.epoch)).where(ownership.c.instance_id == epoch.instance_id)
        )
        await self.tx.execute(
            insert(proof_adoption).values(
                id=proof_id,
                instance_id=epoch.instance_id,
                epoch=epoch.epoch,
                node_id=epoch.node_id,
                incarnation=epoch.incarnation,
                term=term,
                evidence={"run": epoch.run, "ledger_ended_at": known or 0},
                created_at=self.tx.now,
            )
        )
        await self.tx.execute(
            insert(ownership).values(
                instance_id=epoch.instance_id,
                epoch=epoch.epoch,
                node_id=epoch.node_id,
                term=term,
                incarnation=epoch.incarnation,
                run=max(1, epoch.run),
                proof_adoption_id=proof_id,
                created_at=self.tx.now,
            )
        )
        await self.tx.audit(
            actor="scheduler",
            action="ledger.adopt",
            subject=epoch.instance_id,
            reason=f"{epoch.node} shows epoch {epoch.epoch}, the ledger ended at {known or 0}",
            detail={"node_id": epoch.node_id, "proof_adoption": proof_id},
        )
        return Claim(
            epoch=epoch.epoch,
            node_id=epoch.node_id,
            node=epoch.node,
            incarnation=epoch.incarnation,
            run=max(1, epoch.run),
        )

    async def recovered(
        self, adopted: Sequence[core.Sighting], left: Sequence[core.LeftAlone]
    ) -> None:
        term = (await regress.look(self.tx)).term
        for each in adopted:
            await self.tx.execute(
                delete(sighting)
                .where(sighting.c.instance_id == each.instance_id)
                .where(sighting.c.node_id == each.node_id)
            )
        await self.tx.execute(delete(sighting).where(sighting.c.explained))
        await self.tx.execute(
            update(sighting).where(sighting.c.term == term).values(judged_term=term)
        )
        await self.tx.execute(
            insert(recovery).values(
                term=term, adopted=len(adopted), left_alone=len(left), finished_at=self.tx.now
            )
        )
