"""Reading nodes, and the one statement that changes a node's state."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import RowMapping, Select, bindparam, func, select, update

from evac_common.messages import events
from evac_common.model.states import NodeState
from evac_common.store import intent, nodes
from evac_common.store.transaction import Transaction
from evac_monitor.core.states import On, next_row
from evac_monitor.ports import Flags, NodeRow

_STATE, _SPEC, _FACTS = nodes.node_state, intent.node_spec, nodes.node_facts

ACTOR = "evac-monitor"


#: All states, with what enrolment and the first registration say.
NODES: Final[Select[Any]] = select(
    _STATE,
    func.coalesce(_SPEC.c.name, _STATE.c.node_id).label("name"),
    func.coalesce(_SPEC.c.dmi_uuid, _FACTS.c.dmi_uuid).label("dmi_uuid"),
    _SPEC.c.power,
    _SPEC.c.power_secret,
).select_from(
    _STATE.outerjoin(_SPEC, _SPEC.c.id == _STATE.c.node_id).outerjoin(
        _FACTS, _FACTS.c.node_id == _STATE.c.node_id
    )
)
_ONE_NODE: Final = NODES.where(_STATE.c.node_id == bindparam("id_"))
#: The present term, for use within another statement.
TERM: Final = (
    select(nodes.cluster_flags.c.term).where(nodes.cluster_flags.c.id == 1).scalar_subquery()
)
_FLAGS: Final = select(nodes.cluster_flags).where(nodes.cluster_flags.c.id == 1)


def node_row(row: RowMapping) -> NodeRow:
    return NodeRow(
        node_id=row["node_id"],
        name=row["name"],
        state=NodeState(row["state"]),
        term=row["term"],
        incarnation=row["incarnation"],
        generation=row["generation"],
        reason=row["reason"],
        since=row["since"],
        heard_at=row["heard_at"],
        session_command_id=row["session_command_id"],
        decision=tuple(row["decision"]),
        troubles=tuple(row["troubles"]),
        isolated=row["isolated"],
        found_off=row["found_off"],
        dmi_uuid=row["dmi_uuid"],
        power=row["power"],
        power_secret=row["power_secret"],
    )


async def find_node(tx: Transaction, node_id: str) -> NodeRow | None:
    row = await tx.row(_ONE_NODE, {"id_": node_id})
    return node_row(row) if row is not None else None


async def read_flags(tx: Transaction) -> Flags | None:
    row = await tx.row(_FLAGS)
    if row is None:
        return None
    return Flags(
        term=row["term"],
        database_identity=row["database_identity"],
        storm=row["storm"],
        storm_reason=row["storm_reason"],
        storm_released_at=row["storm_released_at"],
        disarmed_until=row["disarmed_until"],
        disarmed_reason=row["disarmed_reason"],
        disarmed_said_at=row["disarmed_said_at"],
        last_fencing_at=row["last_fencing_at"],
        recovering=row["recovering"],
    )


async def move(
    tx: Transaction, node: NodeRow, on: On, why: str, *, actor: str = ACTOR, **values: Any
) -> NodeRow | None:
    """Change a node's state: the table's row, a compare-and-set, `node.state` and an audit row.

    None: the node is not any more what `node` says, and nothing was written. Anything else that
    belongs to the change (columns in `values`) is written by the same statement; what belonged to
    the state before is cleared.
    """
    row = next_row(node.state, on)
    if row is None:
        raise ValueError(f"node {node.name}: nothing follows from {on} in state {node.state}")
    reason = f"{row.why}: {why}"
    changes = {"decision": [], "troubles": [], "isolated": False, **values}
    if row.then not in (NodeState.BLOCKED, NodeState.FENCED):  # it belongs to the fencing
        changes.setdefault("found_off", False)
    changed = await tx.change(
        update(_STATE)
        .where(
            _STATE.c.node_id == node.node_id,
            _STATE.c.state == node.state.value,
            _STATE.c.incarnation == node.incarnation,
            _STATE.c.generation == node.generation,
        )
        .values(
            state=row.then.value,
            generation=node.generation + 1,
            reason=reason,
            since=tx.now,
            **changes,
        )
    )
    if changed != 1:
        return None
    await tx.emit(
        events.NodeStateChanged(
            node_id=node.node_id, node=node.name, why=reason, old=node.state, new=row.then
        )
    )
    await tx.audit(
        actor=actor,
        action="node.state",
        subject=node.node_id,
        reason=reason,
        detail={"old": node.state.value, "new": row.then.value, "on": on.value},
    )
    return await find_node(tx, node.node_id)
