"""Rules for a database that goes back in time: a new term, and nothing before every node spoke."""

from __future__ import annotations

from sqlalchemy import update

from evac_common.store import nodes, regress
from evac_common.store.transaction import Transaction
from evac_monitor.adapters import recovering
from evac_monitor.ports import Flags
from evac_scheduler.adapters.recovery import Recoveries
from tests.mutants.patching import Patching


def unnoticed(patching: Patching) -> None:
    """No new term, and nobody asks the nodes what the database has forgotten."""
    _believe(patching)

    async def begin(
        tx: Transaction, seen: Flags, why: str, *, above: int = 0, identity: str | None = None
    ) -> bool:
        patching.bite("restored, and nobody noticed")
        return False

    patching.function(recovering, "begin", begin)


def no_waiting(patching: Patching) -> None:
    """A new term begins, and work goes on before the nodes have shown what they run."""
    _believe(patching)
    original = recovering.begin

    async def begin(
        tx: Transaction, seen: Flags, why: str, *, above: int = 0, identity: str | None = None
    ) -> bool:
        begun = await original(tx, seen, why, above=above, identity=identity)
        if begun:
            patching.bite("nobody was asked")
            flags = nodes.cluster_flags
            await tx.execute(update(flags).where(flags.c.id == 1).values(recovering=False))
        return begun

    patching.function(recovering, "begin", begin)


def _believe(patching: Patching) -> None:
    """The scheduler believes the database, the monitor what nodes show only of their sessions."""
    distrust = Recoveries.distrust

    async def distrust_(self: Recoveries) -> str:
        if await distrust(self):
            patching.bite("believed all the same")
        return ""

    async def unknown(tx: Transaction) -> str:
        return ""

    patching.function(Recoveries, "distrust", distrust_)
    patching.function(regress, "unknown", unknown)
