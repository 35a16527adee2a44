"""Rows of fence attempts: each is one try by one monitor."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import insert, select, update

from evac_common.store import nodes
from evac_common.store.transaction import Transaction
from evac_monitor.adapters import rows
from evac_monitor.core.fencing import Attempt, AttemptState
from evac_monitor.ports import NodeRow

_ATTEMPT = nodes.fence_attempt

METHOD = "power"


async def of_node(tx: Transaction, node: NodeRow, monitor: str) -> list[Attempt]:
    """The tries for the recorded incarnation since the decision, by number."""
    found = await tx.rows(
        select(_ATTEMPT)
        .where(_ATTEMPT.c.node_id == node.node_id, _ATTEMPT.c.incarnation == node.incarnation)
        .order_by(_ATTEMPT.c.number, _ATTEMPT.c.started_at)
    )

    def ago_s(at: datetime) -> float:
        return (tx.now - at).total_seconds()

    return [
        Attempt(
            attempt_id=row["id"],
            number=row["number"],
            state=AttemptState(row["state"]),
            began_ago_s=ago_s(row["started_at"]),
            ended_ago_s=ago_s(row["finished_at"]) if row["finished_at"] else None,
            detail=row["detail"],
            holder=row["monitor"],
            ours=row["monitor"] == monitor,
        )
        for row in found
    ]


async def term(tx: Transaction, attempt_id: str, monitor: str) -> int | None:
    """In which this monitor began the try or took it over; None: it is another's, or forgotten."""
    found: int | None = await tx.scalar(
        select(_ATTEMPT.c.term).where(_ATTEMPT.c.id == attempt_id, _ATTEMPT.c.monitor == monitor)
    )
    return found


async def begin(tx: Transaction, node: NodeRow, number: int, monitor: str) -> str:
    attempt_id = tx.clock.new_id()
    await tx.execute(
        insert(_ATTEMPT).values(
            id=attempt_id,
            node_id=node.node_id,
            incarnation=node.incarnation,
            method=METHOD,
            number=number,
            state=AttemptState.RUNNING.value,
            detail="",
            monitor=monitor,
            term=rows.TERM,
            started_at=tx.now,
        )
    )
    return attempt_id


async def take_over(tx: Transaction, attempt_id: str, monitor: str) -> bool:
    """Continue a try that nobody runs any more. The caller holds the node's row."""
    changed = await tx.change(
        update(_ATTEMPT)
        .where(_ATTEMPT.c.id == attempt_id, _ATTEMPT.c.state == AttemptState.RUNNING.value)
        .values(monitor=monitor, term=rows.TERM, started_at=tx.now)
    )
    return changed == 1


async def end(
    tx: Transaction, attempt_id: str, state: AttemptState, detail: str, monitor: str
) -> bool:
    """Close a try of our own. False: it is not running, or another monitor took it over."""
    changed = await tx.change(
        update(_ATTEMPT)
        .where(
            _ATTEMPT.c.id == attempt_id,
            _ATTEMPT.c.state == AttemptState.RUNNING.value,
            _ATTEMPT.c.monitor == monitor,
        )
        .values(state=state.value, detail=detail, finished_at=tx.now)
    )
    return changed == 1


async def abandon(tx: Transaction, node_id: str, why: str, *, but: Sequence[str] = ()) -> None:
    """Close the node's running tries: what they were for is settled."""
    await tx.execute(
        update(_ATTEMPT)
        .where(
            _ATTEMPT.c.node_id == node_id,
            _ATTEMPT.c.state == AttemptState.RUNNING.value,
            _ATTEMPT.c.id.not_in(list(but)),
        )
        .values(state=AttemptState.ABANDONED.value, detail=why, finished_at=tx.now)
    )
