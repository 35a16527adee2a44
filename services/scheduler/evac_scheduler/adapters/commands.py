"""Writing: commands that are not answered yet, beside their copies in the outbox."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, insert, select, update

from evac_common.messages.commands import Destroy, Start, Stop
from evac_common.model.identity import Gen
from evac_common.store.placement import command
from evac_common.store.transaction import Transaction
from evac_scheduler.core.sending import Sent
from evac_scheduler.ports import Kept


class Commands:
    tx: Transaction

    async def kept(self, instance_ids: Collection[str]) -> dict[tuple[str, str, int, int], Kept]:
        ids = sorted(set(instance_ids))
        if not ids:
            return {}
        rows = await self.tx.rows(select(command).where(command.c.instance_id.in_(ids)))
        return {
            (row["instance_id"], row["verb"], row["epoch"], row["run"]): Kept(
                sent=Sent(
                    command_id=row["id"],
                    node_id=row["node_id"],
                    gen=Gen(row["term"], row["incarnation"]),
                    deadline=row["deadline"],
                    times=row["sent"],
                    next_at=row["next_at"],
                ),
                row=dict(row),
            )
            for row in rows
        }

    async def send(
        self,
        message: Start | Stop | Destroy,
        *,
        deadline: datetime | None,
        times: int,
        next_at: datetime,
    ) -> None:
        run = message.run if isinstance(message, Start) else 0
        await self.tx.execute(
            delete(command).where(
                command.c.instance_id == message.instance_id,
                command.c.verb == message.name,
                command.c.epoch == message.epoch,
                command.c.run == run,
            )
        )
        queued = await self.tx.send(message, message_id=message.command_id)
        await self.tx.execute(
            insert(command).values(
                id=message.command_id,
                node_id=message.node_id,
                instance_id=message.instance_id,
                verb=message.name,
                epoch=message.epoch,
                run=run,
                term=message.term,
                incarnation=message.incarnation,
                deadline=deadline,
                headers=dict(queued.headers),
                body=queued.body,
                sent=times,
                next_at=next_at,
                created_at=self.tx.now,
            )
        )

    async def send_again(self, kept: Kept, *, next_at: datetime) -> bool:
        raised = await self.tx.change(
            update(command)
            .where(command.c.id == kept.sent.command_id, command.c.sent == kept.sent.times)
            .values(sent=kept.sent.times + 1, next_at=next_at)
        )
        if raised == 1:
            await self.tx.send_again(kept.row)
        return raised == 1

    async def answered(self, instance_id: str, verbs: Collection[str]) -> None:
        await self.tx.execute(
            delete(command).where(
                command.c.instance_id == instance_id, command.c.verb.in_(sorted(verbs))
            )
        )

    async def refused(self, command_id: str, *, node_id: str, next_at: datetime) -> bool:
        changed = await self.tx.change(
            update(command)
            # Another node's word about this id is worth nothing.
            .where(command.c.id == command_id, command.c.node_id == node_id)
            .values(deadline=self.tx.now, next_at=next_at)
        )
        return changed == 1
