"""A database that went back in time: nothing is started or ended until it knows again what runs.

The monitor begins a recovery and ends it. In between the scheduler takes in what every node shows,
and adopts the epochs that were forgotten, all in one transaction.
"""

from __future__ import annotations

import structlog

from evac_common.errors import LedgerRefused
from evac_common.messages import events
from evac_common.model.states import Phase
from evac_scheduler.core.evacuation import On
from evac_scheduler.core.recovery import Adopt, LeftAlone, Sighting, Waits
from evac_scheduler.loops.transactions import in_transaction
from evac_scheduler.ports import Database, ItemChange, Records, StatusChange


class Recovery:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._log = structlog.get_logger()
        self._said: str | None = None

    async def step(self, why: str) -> None:
        """`why`: why the database is not believed now."""
        self._say(f"nothing is started or ended: {why}")
        try:
            await in_transaction(self._database, self.recover)
        except LedgerRefused as refused:
            # A node's state changed after it was read: the next sweep reads again.
            self._log.warning("the ledger refused an adoption", why=str(refused))

    def over(self) -> None:
        if self._said is not None:
            self._log.info("the database is believed again")
        self._said = None

    def _say(self, what: str) -> None:
        if what != self._said:
            self._log.warning("recovering", why=what)
        self._said = what

    async def recover(self, records: Records) -> None:
        """Adopt what was forgotten, once everybody was heard."""
        decision = await records.recovery()
        match decision:
            case Waits(nodes=nodes):
                self._say(f"recovering; waits for {', '.join(nodes)}")
            case Adopt(epochs=epochs, left=left):
                await records.lock_planning()
                for epoch in epochs:
                    await self._adopt(records, epoch)
                for each in left:
                    await self._leave(records, each)
                await records.recovered(epochs, left)
                self._log.info("adopted", count=len(epochs), left_alone=len(left))
            case None:
                pass

    async def _adopt(self, records: Records, epoch: Sighting) -> None:
        claim = await records.adopt(epoch)
        instance = (await records.known([epoch.instance_id])).get(epoch.instance_id)
        assert instance is not None, "only a declared instance is adopted"
        if instance.phase is None:
            await records.introduce([instance])
        instance = (await records.locked([epoch.instance_id]))[epoch.instance_id]
        why = f"{claim.node} shows epoch {claim.epoch}, which the database had forgotten"
        to = StatusChange(
            phase=Phase.RUNNING if epoch.running else Phase.EXITED,
            why=why,
            attempts=0,
            node_id=claim.node_id,
            epoch=claim.epoch,
            run=claim.run,
            observed=True,
        )
        await records.change(instance, to)
        await records.unbook([epoch.instance_id])
        await records.answered(epoch.instance_id, ("start", "stop"))
        # Whatever an open item still waited for has happened in the forgotten history.
        await records.move_items(epoch.instance_id, ItemChange(on=On.RUNNING, reason=why))
        await records.move_items(epoch.instance_id, ItemChange(on=On.UNWANTED, reason=why))
        await records.emit(
            events.InstanceAdopted(
                instance_id=epoch.instance_id,
                instance=instance.name,
                why=why,
                node_id=claim.node_id,
                node=claim.node,
                epoch=claim.epoch,
            )
        )

    async def _leave(self, records: Records, left: LeftAlone) -> None:
        seen = left.sighting
        known = (await records.known([seen.instance_id])).get(seen.instance_id)
        about = (seen.instance_id, seen.node_id, seen.epoch)
        event = events.DoubleRunSuspected if left.rivals else events.InstanceQuarantined
        if about in await records.announced(event.name, [seen.instance_id]):
            return
        await records.emit(
            event(
                instance_id=seen.instance_id,
                instance=known.name if known else seen.instance_id,
                why=f"{seen.node} shows epoch {seen.epoch}; {left.why}",
                node_id=seen.node_id,
                node=seen.node,
                epoch=seen.epoch,
            )
        )
