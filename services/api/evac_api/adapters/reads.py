"""Statements that several parts of the api need: who owns what, by name and by id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import Select, and_, exists, func, or_, select
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.selectable import Subquery

from evac_common.store import intent, nodes, placement

T = TypeVar("T")
CHUNK: Final = 500  # values in one IN or one INSERT: far below every database's limit


def chunks(values: Iterable[T]) -> Iterator[Sequence[T]]:
    """The values, in pieces that one statement can carry."""
    rest = list(values)
    for start in range(0, len(rest), CHUNK):
        yield rest[start : start + CHUNK]


def owners() -> Subquery:
    """The ledger row with the highest epoch of each instance: its owner, alive or not."""
    ledger = placement.ownership
    last = (
        select(ledger.c.instance_id, func.max(ledger.c.epoch).label("epoch"))
        .group_by(ledger.c.instance_id)
        .subquery()
    )
    return (
        select(ledger)
        .join(
            last,
            and_(ledger.c.instance_id == last.c.instance_id, ledger.c.epoch == last.c.epoch),
        )
        .subquery("owner")
    )


def is_released(owner: Subquery) -> ColumnElement[bool]:
    """The owner gave this epoch back itself."""
    proofs = placement.proof_release
    return exists(
        select(proofs.c.id).where(
            proofs.c.instance_id == owner.c.instance_id, proofs.c.epoch == owner.c.epoch
        )
    )


def is_proven_dead(owner: Subquery) -> ColumnElement[bool]:
    """The incarnation of the owner is proven dead (a proof covers all lower incarnations)."""
    proofs = nodes.proof_node
    return exists(
        select(proofs.c.id).where(
            proofs.c.node_id == owner.c.node_id, proofs.c.incarnation >= owner.c.incarnation
        )
    )


def holding() -> Subquery:
    """Instance → node of every epoch that may still run: neither released nor proven dead."""
    owner = owners()
    return (
        select(owner.c.instance_id, owner.c.node_id, owner.c.incarnation)
        .where(~is_released(owner), ~is_proven_dead(owner))
        .subquery("holding")
    )


def instance_remains() -> Select[Any]:
    """Deleted instances, with what is left of them in the scheduler's tables."""
    spec, status = intent.instance_spec, placement.instance_status
    reservation, item = placement.reservation, placement.evacuation_item
    held = holding()
    return (
        select(
            spec.c.id,
            spec.c.name,
            status.c.phase,
            held.c.node_id.label("held_by"),
            or_(
                exists(
                    select(reservation.c.instance_id).where(reservation.c.instance_id == spec.c.id)
                ),
                exists(
                    select(item.c.instance_id).where(
                        item.c.instance_id == spec.c.id, item.c.state.in_(["reserved", "starting"])
                    )
                ),
            ).label("reserved"),
        )
        .outerjoin(status, status.c.instance_id == spec.c.id)
        .outerjoin(held, held.c.instance_id == spec.c.id)
        .where(spec.c.deleted_at.is_not(None))
        .order_by(spec.c.name)
    )
