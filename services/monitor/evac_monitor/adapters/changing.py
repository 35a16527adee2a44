"""Changes of a node's state that prove nothing: silent, heard, troubled, recovered, isolated."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import update

from evac_common.messages import events
from evac_common.model.states import NodeState, Trouble
from evac_common.store import nodes
from evac_common.store.transaction import Transaction
from evac_monitor.adapters import rows
from evac_monitor.core.gate import OnIsolated
from evac_monitor.core.states import On
from evac_monitor.ports import NodeRow

_STATE = nodes.node_state


async def change(
    tx: Transaction,
    node: NodeRow,
    on: On,
    why: str,
    *,
    silent_s: float,
    heard_at: datetime | None,
    troubles: Mapping[Trouble, str],
    isolated: bool,
) -> bool:
    values: dict[str, Any] = {} if heard_at is None else {"heard_at": heard_at}
    values["troubles"] = [
        {"reason": trouble.value, "why": sentence} for trouble, sentence in troubles.items()
    ]
    moved = await rows.move(tx, node, on, why, isolated=isolated, **values)
    if moved is None:
        return False
    if isolated and not node.isolated:
        await _say_isolated(tx, node, moved.reason, OnIsolated.WAIT)
    event = _event(node, moved, silent_s)
    if event is not None:
        await tx.emit(event)
    return True


def _event(node: NodeRow, moved: NodeRow, silent_s: float) -> events.OfNode | None:
    about: dict[str, Any] = {"node_id": node.node_id, "node": node.name, "why": moved.reason}
    match moved.state:
        case NodeState.SUSPECT:
            return events.NodeSuspect(**about, silent_s=silent_s)
        case NodeState.DEGRADED:
            return events.NodeDegraded(
                **about, incarnation=node.incarnation, troubles=reasons(moved)
            )
        case NodeState.UP if node.state is NodeState.DEGRADED:
            return events.NodeRecovered(
                **about, incarnation=node.incarnation, troubles=reasons(node)
            )
        case NodeState.UP:
            return events.NodeUp(**about, incarnation=node.incarnation)
    return None


def reasons(node: NodeRow) -> list[Trouble]:
    return [Trouble(each["reason"]) for each in node.troubles]


async def mark_isolated(
    tx: Transaction, node: NodeRow, isolated: bool, why: str, on_isolated: OnIsolated
) -> bool:
    """The state stays, so its generation does too: a decision under way is not disturbed."""
    changed = await tx.change(
        update(_STATE)
        .where(
            _STATE.c.node_id == node.node_id,
            _STATE.c.state == node.state.value,
            _STATE.c.generation == node.generation,
            _STATE.c.isolated.is_(not isolated),
        )
        .values(isolated=isolated)
    )
    if changed != 1:
        return False
    if isolated:
        await _say_isolated(tx, node, why, on_isolated)
    await tx.audit(
        actor=rows.ACTOR,
        action="node.isolated",
        subject=node.node_id,
        reason=why,
        detail={"isolated": isolated, "on_isolated": on_isolated.value},
    )
    return True


async def _say_isolated(tx: Transaction, node: NodeRow, why: str, on_isolated: OnIsolated) -> None:
    await tx.emit(
        events.NodeIsolated(
            node_id=node.node_id,
            node=node.name,
            why=why,
            incarnation=node.incarnation,
            on_isolated=on_isolated.value,
        )
    )
