"""The cluster as a whole: its flags, which the monitor owns, and wishes about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping, Select, func, insert, or_, select

from evac_api.adapters import reads, work
from evac_api.core import storm, views
from evac_api.ports import Answer, Caller
from evac_common.messages import events
from evac_common.model.states import EvacuationState, NodeState, OperationState
from evac_common.store import intent, nodes, placement
from evac_common.store.engine import Store
from evac_common.store.transaction import Transaction


class StoredCluster:
    """`ports.Cluster` on the database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def show(self) -> views.ClusterView:
        async with self._store.read() as tx:
            flags = await _flags(tx)
            until = flags["disarmed_until"] if flags else None
            disarmed = until is not None and until > tx.now
            return views.ClusterView(
                armed=not disarmed,
                disarmed_until=until if disarmed else None,
                disarmed_reason=flags["disarmed_reason"] if flags and disarmed else "",
                storm=bool(flags and flags["storm"]),
                storm_reason=flags["storm_reason"] if flags and flags["storm"] else "",
                storm_since=flags["storm_since"] if flags and flags["storm"] else None,
                recovering=bool(flags and flags["recovering"]),
                recovering_reason=flags["recovering_reason"] if flags else "",
                recovering_since=flags["recovering_since"] if flags else None,
                term=flags["term"] if flags else 0,
                nodes=await _nodes(tx),
                instances=await _instances(tx),
                evacuations_open=await _count(
                    tx, placement.evacuation.c.state, EvacuationState.OPEN.value
                ),
                operations_pending=await _count(
                    tx, intent.operation.c.state, OperationState.PENDING.value
                ),
            )

    async def storm(self) -> views.StormView:
        async with self._store.read() as tx:
            flags = await _flags(tx)
            silent = [_silent_node(row) for row in await tx.rows(_silent())]
        declared = bool(flags and flags["storm"])
        return views.StormView(
            storm=declared,
            reason=flags["storm_reason"] if flags else "",
            since=flags["storm_since"] if flags else None,
            released_at=flags["storm_released_at"] if flags else None,
            silent_nodes=[node.name for node in silent],
            nodes=silent,
            release=storm.release(silent, storm=declared),
        )

    async def wish(
        self, caller: Caller, verb: str, reason: str, arguments: Mapping[str, Any]
    ) -> Answer:
        async def step(tx: Transaction) -> Answer:
            wish_id = tx.clock.new_id()
            operation = await work.open_operation(
                tx,
                caller,
                verb=f"cluster.{verb}",
                target_kind="cluster",
                target_id="evac",
                target="evac",
                reason=reason,
                wish_id=wish_id,
            )
            await tx.execute(
                insert(intent.cluster_wish).values(
                    id=wish_id,
                    verb=verb,
                    arguments=dict(arguments),
                    actor=caller.actor,
                    reason=reason,
                    operation_id=operation.id,
                    created_at=tx.now,
                )
            )
            await tx.emit(events.ClusterIntent(verb=verb, why=reason))
            await tx.audit(
                actor=caller.actor,
                action=f"wish.{verb}",
                subject="evac",
                reason=reason,
                detail={"operation_id": operation.id, **arguments},
            )
            return work.accepted(operation)

        return await work.once(self._store, caller, step)


def _silent() -> Select[Any]:
    """Nodes that are not heard, whatever is made of it, by name."""
    spec, state, held = intent.node_spec, nodes.node_state, reads.holding()
    count = select(func.count()).select_from(held).where(held.c.node_id == spec.c.id)
    silent = [NodeState.SUSPECT, NodeState.FENCING, NodeState.BLOCKED]
    return (
        select(
            spec.c.name,
            spec.c.power,
            state.c.state,
            state.c.since,
            state.c.heard_at,
            state.c.reason,
            state.c.isolated,
            count.scalar_subquery().label("instances"),
        )
        .join(state, state.c.node_id == spec.c.id)
        .where(or_(state.c.state.in_([item.value for item in silent]), state.c.isolated))
        .order_by(spec.c.name)
    )


def _silent_node(row: RowMapping) -> views.SilentNodeView:
    state = NodeState(row["state"])
    return views.SilentNodeView(
        name=row["name"],
        state=state,
        since=row["since"],
        heard_at=row["heard_at"],
        instances=row["instances"],
        reason=row["reason"],
        on_release=storm.fate(
            state, has_power=row["power"] is not None, isolated=bool(row["isolated"])
        ),
    )


async def _flags(tx: Transaction) -> RowMapping | None:
    return await tx.row(select(nodes.cluster_flags).order_by(nodes.cluster_flags.c.id).limit(1))


async def _nodes(tx: Transaction) -> dict[NodeState, int]:
    spec, state = intent.node_spec, nodes.node_state
    column = func.coalesce(state.c.state, NodeState.NEW.value).label("state")
    rows = await tx.rows(
        select(column, func.count().label("number"))
        .select_from(spec.outerjoin(state, state.c.node_id == spec.c.id))
        .group_by(column)
    )
    return {NodeState(row["state"]): row["number"] for row in rows}


async def _instances(tx: Transaction) -> dict[str, int]:
    spec, status = intent.instance_spec, placement.instance_status
    column = func.coalesce(status.c.phase, "unplaced").label("phase")
    rows = await tx.rows(
        select(column, func.count().label("number"))
        .select_from(spec.outerjoin(status, status.c.instance_id == spec.c.id))
        .group_by(column)
    )
    return {row["phase"]: row["number"] for row in rows}


async def _count(tx: Transaction, column: Any, value: str) -> int:
    return int(await tx.scalar(select(func.count()).where(column == value)))
