"""The scheduler's records in the shared store: one `Records` per transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from evac_common.messages.events import Event
from evac_common.store.engine import Store
from evac_scheduler.adapters.commands import Commands
from evac_scheduler.adapters.evacuations import Evacuations
from evac_scheduler.adapters.ledger import Ledger
from evac_scheduler.adapters.reads import Reads
from evac_scheduler.adapters.recovery import Recoveries


class SqlRecords(Reads, Ledger, Evacuations, Commands, Recoveries):
    """All of `ports.Records`, on one transaction."""

    @property
    def now(self) -> datetime:
        return self.tx.now

    def new_id(self) -> str:
        return self.tx.clock.new_id()

    async def emit(self, event: Event) -> None:
        await self.tx.emit(event)

    async def audit(
        self, *, action: str, subject: str, reason: str, detail: Mapping[str, Any] | None = None
    ) -> None:
        await self.tx.audit(
            actor="scheduler", action=action, subject=subject, reason=reason, detail=detail
        )


class SqlDatabase:
    def __init__(self, store: Store) -> None:
        self._store = store

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlRecords]:
        async with self._store.transaction() as tx:
            yield SqlRecords(tx)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[SqlRecords]:
        async with self._store.read() as tx:
            yield SqlRecords(tx)
