"""Collects what `core.explain` needs about one instance, in one snapshot of the database."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import RowMapping, select

from evac_api.adapters.pools import node_names
from evac_api.core.explain import Facts, Happened, Item, NodeNow, Ordered, Owned, Proof
from evac_api.core.status import Seen
from evac_common.model.states import NodeState, RunStrategy
from evac_common.store import nodes, outbox, placement
from evac_common.store.transaction import Transaction

OWNERS_MAX: Final = 3  # the present one, the one before, and how that one came to it
EVENTS_MAX: Final = 100
_MEANING: Final = {  # the api's audit rows about intent; an apply says which in its detail
    "instance.start": RunStrategy.ALWAYS.value,
    "instance.stop": RunStrategy.HALTED.value,
    "instance.delete": "deleted",
    "instance.apply": "",
}
ALARMS: Final = ("instance.double_run_suspected", "instance.quarantined")


async def facts(tx: Transaction, row: RowMapping, seen: Seen) -> Facts:
    """`row` is the instance's spec with its status (adapters/instances.py)."""
    names = await node_names(tx)
    owned = await _owned(tx, row["id"], names)
    happened = await _happened(tx, row["id"])
    wanted_since, wanted_why = await _wanted(tx, row)
    reserved = await tx.scalar(
        select(placement.reservation.c.node_id).where(
            placement.reservation.c.instance_id == row["id"]
        )
    )
    current = owned[0].epoch if owned else 0
    return Facts(
        now=tx.now,
        name=row["name"],
        wanted=row["run_strategy"] != RunStrategy.HALTED.value and row["deleted_at"] is None,
        strategy=row["run_strategy"],
        deleted_at=row["deleted_at"],
        wanted_since=wanted_since,
        wanted_why=wanted_why,
        seen=seen,
        attempts=row["attempts"] or 0,
        next_at=row["next_at"],
        candidates=row["candidates"] or [],
        owned=owned,
        nodes={one.node_id: await _node(tx, one.node_id, one.node) for one in _distinct(owned)},
        item=await _item(tx, row["id"], names),
        ordered=await _ordered(tx, row["id"], names),
        happened=[one for one in happened if one.name not in ALARMS],
        reserved_on=names.get(reserved, str(reserved)) if reserved else "",
        alarms=[
            one for one in happened if one.name in ALARMS and one.data.get("epoch", 0) <= current
        ],
    )


def _distinct(owned: Iterable[Owned]) -> Iterable[Owned]:
    return {one.node_id: one for one in owned}.values()


async def _wanted(tx: Transaction, row: RowMapping) -> tuple[datetime, str]:
    """Who said that it should run, or not, and when: the oldest word that still holds."""
    table = outbox.audit
    said = await tx.rows(
        select(table)
        .where(table.c.subject == row["id"], table.c.action.in_(tuple(_MEANING)))
        .order_by(table.c.sequence.desc())
        .limit(EVENTS_MAX)
    )
    meaning = "deleted" if row["deleted_at"] is not None else row["run_strategy"]
    still = list(itertools.takewhile(lambda one: _meant(one) == meaning, said))
    if not still:
        return row["updated_at"], ""
    return still[-1]["created_at"], f"{still[-1]['reason']} ({still[-1]['actor']})"


def _meant(row: RowMapping) -> str:
    return _MEANING[row["action"]] or str(row["detail"].get("run_strategy"))


async def _owned(tx: Transaction, instance_id: str, names: Mapping[str, str]) -> list[Owned]:
    ledger, released = placement.ownership, placement.proof_release
    rows = await tx.rows(
        select(ledger)
        .where(ledger.c.instance_id == instance_id)
        .order_by(ledger.c.epoch.desc())
        .limit(OWNERS_MAX)
    )
    releases = {
        row["epoch"]: row
        for row in await tx.rows(select(released).where(released.c.instance_id == instance_id))
    }
    found = []
    for row in rows:
        over = (
            _release(releases[row["epoch"]], names)
            if row["epoch"] in releases
            else await _death(tx, row)
        )
        found.append(
            Owned(
                epoch=row["epoch"],
                node_id=row["node_id"],
                node=names.get(row["node_id"], row["node_id"]),
                incarnation=row["incarnation"],
                run=row["run"],
                at=row["created_at"],
                proof=await _allowed_by(tx, row, releases, names),
                over=over,
            )
        )
    return found


async def _allowed_by(
    tx: Transaction,
    row: RowMapping,
    releases: Mapping[int, RowMapping],
    names: Mapping[str, str],
) -> Proof | None:
    if row["proof_release_id"] is not None:
        found = next(
            (one for one in releases.values() if one["id"] == row["proof_release_id"]), None
        )
        return _release(found, names) if found is not None else None
    if row["proof_node_id"] is None:
        return None
    table = nodes.proof_node
    proof = await tx.row(select(table).where(table.c.id == row["proof_node_id"]))
    return _of_node(proof) if proof is not None else None


async def _death(tx: Transaction, row: RowMapping) -> Proof | None:
    """The first proof that covers this owner's incarnation."""
    table = nodes.proof_node
    proof = await tx.row(
        select(table)
        .where(table.c.node_id == row["node_id"], table.c.incarnation >= row["incarnation"])
        .order_by(table.c.incarnation, table.c.created_at)
        .limit(1)
    )
    return _of_node(proof) if proof is not None else None


def _of_node(row: RowMapping) -> Proof:
    return Proof(
        kind=row["kind"],
        at=row["created_at"],
        actor=row["actor"],
        evidence=row["evidence"],
        released=False,
    )


def _release(row: RowMapping, names: Mapping[str, str]) -> Proof:
    return Proof(
        kind=row["kind"],
        at=row["created_at"],
        actor=names.get(row["node_id"], row["node_id"]),
        evidence=row["evidence"],
        released=True,
    )


async def _happened(tx: Transaction, subject: str) -> list[Happened]:
    """The last events about a subject, oldest first."""
    table = outbox.event
    rows = await tx.rows(
        select(table)
        .where(table.c.subject == subject)
        .order_by(table.c.sequence.desc())
        .limit(EVENTS_MAX)
    )
    return [
        Happened(name=row["name"], at=row["created_at"], data=row["body"]) for row in reversed(rows)
    ]


async def _node(tx: Transaction, node_id: str, name: str) -> NodeNow:
    state, attempt = nodes.node_state, nodes.fence_attempt
    row = await tx.row(select(state).where(state.c.node_id == node_id))
    attempts: Sequence[RowMapping] = await tx.rows(
        select(attempt)
        .where(attempt.c.node_id == node_id)
        .order_by(attempt.c.started_at.desc(), attempt.c.number.desc())
        .limit(6)
    )
    return NodeNow(
        name=name,
        state=NodeState(row["state"]) if row else None,
        reason=row["reason"] if row else "",
        since=row["since"] if row else None,
        heard_at=row["heard_at"] if row else None,
        incarnation=row["incarnation"] if row else 0,
        gates=row["decision"] if row else [],
        happened=await _happened(tx, node_id),
        attempts=[
            {
                "method": one["method"],
                "number": one["number"],
                "state": one["state"],
                "detail": one["detail"],
                "incarnation": one["incarnation"],
                "at": one["finished_at"] or one["started_at"],
            }
            for one in reversed(attempts)
        ],
    )


async def _item(tx: Transaction, instance_id: str, names: Mapping[str, str]) -> Item | None:
    item, evacuation = placement.evacuation_item, placement.evacuation
    row = await tx.row(
        select(item, evacuation.c.node_id.label("dead"), evacuation.c.created_at.label("opened_at"))
        .join(evacuation, evacuation.c.id == item.c.evacuation_id)
        .where(item.c.instance_id == instance_id)
        .order_by(item.c.created_at.desc(), item.c.source_epoch.desc())
        .limit(1)
    )
    if row is None:
        return None
    return Item(
        state=row["state"],
        node=names.get(row["dead"], row["dead"]),
        opened_at=row["opened_at"],
        updated_at=row["updated_at"],
        reason=row["reason"],
        attempts=row["attempts"],
        next_at=row["next_at"],
        candidates=row["candidates"] or [],
    )


async def _ordered(tx: Transaction, instance_id: str, names: Mapping[str, str]) -> list[Ordered]:
    table = placement.command
    rows = await tx.rows(
        select(table).where(table.c.instance_id == instance_id).order_by(table.c.created_at)
    )
    return [
        Ordered(
            verb=row["verb"],
            node=names.get(row["node_id"], row["node_id"]),
            epoch=row["epoch"],
            run=row["run"],
            sent=row["sent"],
            at=row["created_at"],
            next_at=row["next_at"],
            deadline=row["deadline"],
        )
        for row in rows
    ]
