"""One transaction: statements, and the rows that a change owes the world (outbox, event, audit)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import URL, CursorResult, Executable, RowMapping, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from evac_common.messages.codec import CONTENT_TYPE, Envelope, decode, encode
from evac_common.messages.events import Event
from evac_common.messages.registry import Message
from evac_common.store import outbox
from evac_common.store.failures import translated

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Clock(Protocol):
    """The part of a service's clock that a store needs."""

    def now(self) -> datetime: ...

    def new_id(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A message as it stands in the outbox."""

    exchange: str
    routing_key: str
    headers: Mapping[str, str]
    content_type: str
    body: bytes
    message_id: str


class Transaction:
    """Statements of one transaction. Use it inside the block that opened it, and from one task."""

    def __init__(
        self,
        connection: AsyncConnection,
        *,
        service: str,
        source: str,
        clock: Clock,
        bounded: Callable[[AsyncConnection], AbstractContextManager[None]],
        writable: bool,
    ) -> None:
        self.service = service
        self.clock = clock
        self.now = clock.now()  # one moment for everything this transaction writes
        self.wrote_outbox = False
        self.failed = False
        self._source = source  # CloudEvents source of what it sends
        self._connection = connection
        self._bounded = bounded  # limits the time of one call on the connection
        self._writable = writable

    @property
    def database(self) -> URL:
        """The address of the database that this transaction is on."""
        return self._connection.engine.url

    async def execute(
        self, statement: Executable, parameters: Parameters | None = None
    ) -> CursorResult[Any]:
        """Raises StoreUnavailable, Conflict, LedgerRefused or UnprovenAssignment.

        After any error nothing more can be done in this transaction: let it end the block, and
        catch it outside.
        """
        if self.failed:
            raise RuntimeError("a statement of this transaction failed: only its end is left")
        if not self._writable and getattr(statement, "is_dml", False):
            raise TypeError("a writing statement in Store.read()")
        self.failed = True  # until it has succeeded, so that a cancelled one counts as failed
        with self._bounded(self._connection), translated("statement"):
            result = await self._connection.execute(statement, parameters)
        self.failed = False
        return result

    async def rows(
        self, statement: Executable, parameters: Parameters | None = None
    ) -> list[RowMapping]:
        return list((await self.execute(statement, parameters)).mappings().all())

    async def row(
        self, statement: Executable, parameters: Parameters | None = None
    ) -> RowMapping | None:
        """The first row, or None."""
        return (await self.execute(statement, parameters)).mappings().first()

    async def scalar(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """The first column of the first row, or None."""
        return (await self.execute(statement, parameters)).scalar()

    async def change(self, statement: Executable, parameters: Parameters | None = None) -> int:
        """How many rows were inserted, updated or deleted: a compare-and-set compares it with 1."""
        counted = statement.execution_options(preserve_rowcount=True)  # else -1 for some inserts
        return (await self.execute(counted, parameters)).rowcount

    async def emit(self, event: Event) -> str:
        """Record an event and put it into the outbox. Returns its id."""
        event_id = self.clock.new_id()
        await self.execute(
            insert(outbox.event).values(
                event_id=event_id,
                service=self.service,
                type=event.type(),
                name=event.name,
                subject=event.subject(),
                alarm=bool(getattr(event, "alarm", False)),
                body=event.model_dump(mode="json"),
                created_at=self.now,
            )
        )
        await self.send(event, message_id=event_id)
        return event_id

    async def send(self, message: Message, *, message_id: str) -> Queued:
        """Put a message into the outbox; the relay publishes it after the commit."""
        envelope = Envelope(id=message_id, source=self._source, time=self.now)
        wire = encode(message, envelope)
        queued = Queued(
            exchange=message.family.exchange,
            routing_key=message.routing_key(),
            headers=wire.headers,
            content_type=wire.content_type,
            body=wire.body,
            message_id=message_id,
        )
        await self._put(queued)
        return queued

    async def send_again(self, row: RowMapping | Mapping[str, Any]) -> Queued:
        """Put a stored message into the outbox once more: same id, same headers, same bytes.

        `row` has `headers`, `body` and the message's id as `message_id` or `id` (table `command`).
        """
        headers, body = row["headers"], row["body"]
        _, message = decode(headers, CONTENT_TYPE, body)
        queued = Queued(
            exchange=message.family.exchange,
            routing_key=message.routing_key(),
            headers=headers,
            content_type=CONTENT_TYPE,
            body=body,
            message_id=row["message_id"] if "message_id" in row else row["id"],
        )
        await self._put(queued)
        return queued

    async def audit(
        self,
        *,
        actor: str,
        action: str,
        subject: str,
        reason: str,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Record who did what, and why. `subject` is the id of what it was done to."""
        await self.execute(
            insert(outbox.audit).values(
                service=self.service,
                actor=actor,
                action=action,
                subject=subject,
                reason=reason,
                detail=dict(detail or {}),
                created_at=self.now,
            )
        )

    async def _put(self, queued: Queued) -> None:
        await self.execute(
            insert(outbox.outbox).values(
                service=self.service,
                message_id=queued.message_id,
                exchange=queued.exchange,
                routing_key=queued.routing_key,
                headers=dict(queued.headers),
                content_type=queued.content_type,
                body=queued.body,
                created_at=self.now,
            )
        )
        self.wrote_outbox = True
