"""Operators' wishes: which are unanswered, and their answers."""

from __future__ import annotations

from sqlalchemy import insert, select

from evac_common.model.states import OperationState
from evac_common.store import intent, nodes
from evac_common.store.transaction import Transaction
from evac_monitor.core.wishes import ClusterVerb, Verb
from evac_monitor.ports import ClusterWish, NodeWish

_OUTCOME = nodes.monitor_wish_outcome
_SWEEP_MAX = 200  # wishes of one sweep; the rest comes with the next


async def open_node_wishes(tx: Transaction, *, limit: int | None = _SWEEP_MAX) -> list[NodeWish]:
    wish = intent.node_wish
    found = await tx.rows(
        select(wish)
        .outerjoin(_OUTCOME, _OUTCOME.c.wish_id == wish.c.id)
        .where(_OUTCOME.c.wish_id.is_(None), wish.c.verb.in_([verb.value for verb in Verb]))
        .order_by(wish.c.created_at, wish.c.id)
        .limit(limit)
    )
    return [
        NodeWish(
            wish_id=row["id"],
            node_id=row["node_id"],
            verb=row["verb"],
            actor=row["actor"],
            reason=row["reason"],
        )
        for row in found
    ]


async def open_cluster_wishes(tx: Transaction) -> list[ClusterWish]:
    wish = intent.cluster_wish
    found = await tx.rows(
        select(wish)
        .outerjoin(_OUTCOME, _OUTCOME.c.wish_id == wish.c.id)
        .where(_OUTCOME.c.wish_id.is_(None), wish.c.verb.in_([verb.value for verb in ClusterVerb]))
        .order_by(wish.c.created_at, wish.c.id)
        .limit(_SWEEP_MAX)
    )
    return [
        ClusterWish(
            wish_id=row["id"],
            verb=row["verb"],
            arguments=dict(row["arguments"]),
            actor=row["actor"],
            reason=row["reason"],
        )
        for row in found
    ]


async def answered(tx: Transaction, wish_id: str) -> bool:
    return await tx.row(select(_OUTCOME).where(_OUTCOME.c.wish_id == wish_id)) is not None


async def answer(tx: Transaction, wish_id: str, *, succeeded: bool, why: str) -> None:
    """Raises Conflict when another monitor answered at the same moment."""
    result = OperationState.SUCCEEDED if succeeded else OperationState.FAILED
    await tx.execute(
        insert(_OUTCOME).values(wish_id=wish_id, result=result.value, reason=why, created_at=tx.now)
    )


async def settle_fences(tx: Transaction, node_id: str, *, succeeded: bool, why: str) -> None:
    """Answer every open wish to fence this node, in the transaction that settles the matter."""
    wish = intent.node_wish
    open_wishes = await tx.rows(
        select(wish.c.id)
        .outerjoin(_OUTCOME, _OUTCOME.c.wish_id == wish.c.id)
        .where(
            _OUTCOME.c.wish_id.is_(None),
            wish.c.node_id == node_id,
            wish.c.verb == Verb.FENCE.value,
        )
        .order_by(wish.c.id)
    )
    for row in open_wishes:
        await answer(tx, row["id"], succeeded=succeeded, why=why)


async def refuse_all(tx: Transaction, why: str) -> None:
    """Answer every open wish about a node."""
    for wish in await open_node_wishes(tx, limit=None):
        await answer(tx, wish.wish_id, succeeded=False, why=why)
