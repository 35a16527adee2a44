"""What every mutating request shares: idempotency and operations, in one transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sqlalchemy import RowMapping, insert, select

from evac_api.core import views
from evac_api.core.refusals import Invalid, Outdated
from evac_api.ports import Answer, Caller
from evac_common.messages import events
from evac_common.model.states import OperationState
from evac_common.store import intent
from evac_common.store.engine import Store
from evac_common.store.transaction import Transaction

Step = Callable[[Transaction], Awaitable[Answer]]


async def once(store: Store, caller: Caller, step: Step, *, handed_out: str = "") -> Answer:
    """Carry out `step` in one transaction; under an idempotency key once, with one answer.

    `handed_out` names a part of the answer's body that is handed out once and never stored.
    """
    async with store.transaction() as tx:
        known = await answered(tx, caller)
        if known is not None:
            return known
        answer = await step(tx)
        await remember(tx, caller, answer, handed_out=handed_out)
        return answer


async def remember(
    tx: Transaction, caller: Caller, answer: Answer, *, handed_out: str = ""
) -> None:
    """Keep the answer for a repetition of the same request."""
    if caller.key is None:
        return
    body = without(answer.body, handed_out) if handed_out else answer.body
    await tx.execute(
        insert(intent.idempotency_key).values(
            key=caller.key,
            actor=caller.actor,
            digest=caller.digest,
            status=answer.status,
            response={
                "body": body,
                "location": answer.location,
                "generation": answer.generation,
            },
            created_at=tx.now,
        )
    )


def without(body: Any, path: str) -> Any:
    """The body with the value at a dotted path replaced by null."""
    first, _, rest = path.partition(".")
    return {**body, first: without(body[first], rest) if rest else None}


async def stored(tx: Transaction, caller: Caller) -> RowMapping | None:
    """What is kept under the caller's key."""
    if caller.key is None:
        return None
    keys = intent.idempotency_key
    return await tx.row(select(keys).where(keys.c.key == caller.key, keys.c.actor == caller.actor))


async def answered(tx: Transaction, caller: Caller) -> Answer | None:
    """The stored answer to this very request, if it was carried out before."""
    row = await stored(tx, caller)
    if row is None:
        return None
    if row["digest"] != caller.digest:
        raise Invalid.one("Idempotency-Key", caller.key, "was used for another request")
    response = row["response"]
    return Answer(
        status=row["status"],
        body=response["body"],
        location=response["location"],
        generation=response["generation"],
    )


def check_generation(row: RowMapping | None, wanted: int | None) -> None:
    """Raises Outdated when the caller saw another generation of this row (If-Match)."""
    if wanted is not None and (row is None or row["generation"] != wanted):
        raise Outdated


async def open_operation(
    tx: Transaction,
    caller: Caller,
    *,
    verb: str,
    target_kind: str,
    target_id: str,
    target: str,
    reason: str,
    wish_id: str | None = None,
    goal_generation: int | None = None,
) -> views.OperationView:
    """Record that something was asked for and is being done; `operation.accepted` says so."""
    row: dict[str, Any] = {
        "id": tx.clock.new_id(),
        "verb": verb,
        "target_kind": target_kind,
        "target_id": target_id,
        "target_name": target,
        "wish_id": wish_id,
        "goal_generation": goal_generation,
        "actor": caller.actor,
        "reason": reason,
        "request_id": caller.request_id or None,
        "state": OperationState.PENDING.value,
        "message": "accepted",
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    await tx.execute(insert(intent.operation).values(**row))
    await tx.emit(
        events.OperationAccepted(
            operation_id=row["id"],
            request_id=caller.request_id,
            verb=verb,
            target=target,
            actor=caller.actor,
            message=reason,
        )
    )
    return operation_view(row)


def operation_view(row: RowMapping | Mapping[str, Any]) -> views.OperationView:
    return views.OperationView(
        id=row["id"],
        verb=row["verb"],
        target_kind=row["target_kind"],
        target=row["target_name"],
        state=OperationState(row["state"]),
        message=row["message"],
        actor=row["actor"],
        reason=row["reason"],
        request_id=row["request_id"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def accepted(operation: views.OperationView) -> Answer:
    """202 and where to follow it."""
    return Answer(
        status=202,
        body=operation.model_dump(mode="json"),
        location=f"/v1/operations/{operation.id}",
    )
