"""From the decision to cut a node off to the proof: each step one transaction's worth of rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import func, insert, select, update

from evac_common.messages import events
from evac_common.model.states import NodeState, ProofKind
from evac_common.store import nodes, outbox
from evac_common.store.transaction import Transaction
from evac_monitor.adapters import attempts, flags, recovering, rows, wishes
from evac_monitor.core import fencing
from evac_monitor.core.gate import Answer
from evac_monitor.core.states import On
from evac_monitor.ports import Flags, NodeRow, NodeWish

_STATE = nodes.node_state


async def begin_fencing(
    tx: Transaction,
    node: NodeRow,
    seen: Flags,
    answers: Sequence[Answer],
    why: str,
    monitor: str,
    *,
    found_off: bool,
) -> bool:
    """Automatic: the turn is taken first, so two monitors cannot both begin one."""
    if not await flags.count_fencing(tx, seen, in_storm=found_off):
        return False
    if not await _unheard(tx, node):
        return False
    return await _begin(
        tx, node, On.GATES_OPEN, answers, why, monitor, actor=rows.ACTOR, found_off=found_off
    )


async def _unheard(tx: Transaction, node: NodeRow) -> bool:
    """Whether nobody has noted hearing it since `node` was read: another monitor may hear it."""
    changed = await tx.change(
        update(_STATE)
        .where(_STATE.c.node_id == node.node_id)
        .where(_STATE.c.heard_at.is_not_distinct_from(node.heard_at))
        .values(generation=_STATE.c.generation)
    )
    return changed == 1


async def begin_fencing_for(tx: Transaction, node: NodeRow, wish: NodeWish, monitor: str) -> bool:
    answers = [flags.operator_answer(wish.actor, wish.reason)]
    why = f"{wish.reason} ({wish.actor})"
    if not await _begin(tx, node, On.OPERATOR_FENCE, answers, why, monitor, actor=wish.actor):
        return False
    await flags.note_fencing(tx)
    return True


async def _begin(
    tx: Transaction,
    node: NodeRow,
    on: On,
    answers: Sequence[Answer],
    why: str,
    monitor: str,
    *,
    actor: str,
    found_off: bool = False,
) -> bool:
    decision = [answer.as_json() for answer in answers]
    moved = await rows.move(
        tx,
        node,
        on,
        why,
        actor=actor,
        decision=decision,
        found_off=found_off,
        doomed_term=rows.TERM,
    )
    if moved is None:
        return False
    if node.power is not None:
        await attempts.begin(tx, moved, 1 + await _last_number(tx, moved, monitor), monitor)
    await tx.emit(
        events.NodeFencing(
            node_id=node.node_id, node=node.name, why=moved.reason, incarnation=node.incarnation
        )
    )
    return True


async def _last_number(tx: Transaction, node: NodeRow, monitor: str) -> int:
    return max((attempt.number for attempt in await attempts.of_node(tx, node, monitor)), default=0)


async def lock(tx: Transaction, node: NodeRow) -> bool:
    """Hold the node's row until the end of the transaction, if it is still as `node` says."""
    changed = await tx.change(
        update(_STATE)
        .where(
            _STATE.c.node_id == node.node_id,
            _STATE.c.state == node.state.value,
            _STATE.c.incarnation == node.incarnation,
            _STATE.c.generation == node.generation,
        )
        .values(generation=node.generation)
    )
    return changed == 1


async def begin_try(
    tx: Transaction,
    node: NodeRow,
    step: fencing.Try | fencing.Resume,
    seen: Sequence[fencing.Attempt],
    monitor: str,
    *,
    only_read: bool,
) -> str | None:
    if not await lock(tx, node) or await recovering.only_read(tx, node) is not only_read:
        return None
    now = await attempts.of_node(tx, node, monitor)
    if _key(now) != _key(seen):
        return None
    match step:
        case fencing.Try(number=number):
            return await attempts.begin(tx, node, number, monitor)
        case fencing.Resume(attempt_id=attempt_id):
            taken = await attempts.take_over(tx, attempt_id, monitor)
            return attempt_id if taken else None


def _key(known: Sequence[fencing.Attempt]) -> list[tuple[str, str, str]]:
    return [(attempt.attempt_id, attempt.state.value, attempt.holder) for attempt in known]


async def prove_off(
    tx: Transaction, node: NodeRow, attempt_id: str, evidence: dict[str, Any], monitor: str
) -> bool:
    """The power was read off twice. Written only while the node still is this incarnation."""
    term = await attempts.term(tx, attempt_id, monitor)
    if not await recovering.is_of_now(tx, term):
        return False  # read before the database went back: it is read again
    why = f"power read off twice at {evidence['address']}"
    evidence = {**evidence, "found_off": node.found_off}  # before the decision too
    moved = await rows.move(tx, node, On.POWER_PROVEN, why, decision=list(node.decision))
    if moved is None:
        return False
    if not await attempts.end(tx, attempt_id, fencing.AttemptState.PROVEN, why, monitor):
        # Another monitor took this try over; the readings are as good as its own will be.
        await attempts.abandon(tx, node.node_id, why)
    await attempts.abandon(tx, node.node_id, why, but=[attempt_id])
    if term is not None:
        await recovering.proven_down(tx, node, term=term)
    await _fenced(tx, moved, ProofKind.POWER, evidence, rows.ACTOR, why)
    return True


async def confirm_down(tx: Transaction, node: NodeRow, wish: NodeWish) -> bool:
    """A person's word is the proof."""
    why = f"{wish.actor} vouches: {wish.reason}"
    moved = await rows.move(
        tx, node, On.OPERATOR_CONFIRMED, why, actor=wish.actor, decision=list(node.decision)
    )
    if moved is None:
        return False
    await attempts.abandon(tx, node.node_id, why)
    await recovering.proven_down(tx, node)
    evidence = {"operator": wish.actor, "reason": wish.reason, "wish_id": wish.wish_id}
    await _fenced(tx, moved, ProofKind.OPERATOR, evidence, wish.actor, why)
    await wishes.answer(tx, wish.wish_id, succeeded=True, why=f"the node is fenced: {why}")
    return True


async def vouch(tx: Transaction, node: NodeRow, wish: NodeWish) -> bool:
    """It is fenced by a proof of before the database went back in time, and off now too."""
    if not await lock(tx, node):
        return False
    await recovering.proven_down(tx, node)
    why = f"it is off now too: {wish.actor} vouches: {wish.reason}"
    await tx.audit(
        actor=wish.actor, action="node.vouched", subject=node.node_id, reason=wish.reason
    )
    await wishes.answer(tx, wish.wish_id, succeeded=True, why=why)
    return True


async def _fenced(
    tx: Transaction,
    node: NodeRow,
    kind: ProofKind,
    evidence: dict[str, Any],
    actor: str,
    why: str,
) -> None:
    """What every way into `fenced` writes beside the state."""
    await tx.execute(
        insert(nodes.proof_node).values(
            id=tx.clock.new_id(),
            node_id=node.node_id,
            incarnation=node.incarnation,
            kind=kind.value,
            evidence=evidence,
            actor=actor,
            created_at=tx.now,
        )
    )
    await tx.emit(
        events.NodeDown(
            node_id=node.node_id,
            node=node.name,
            why=node.reason,
            incarnation=node.incarnation,
            proof=kind,
            evidence=why,
        )
    )
    await wishes.settle_fences(tx, node.node_id, succeeded=True, why=f"the node is fenced: {why}")


async def block(tx: Transaction, node: NodeRow, why: str) -> bool:
    moved = await rows.move(tx, node, On.METHODS_EXHAUSTED, why, decision=list(node.decision))
    if moved is None:
        return False
    await attempts.abandon(tx, node.node_id, why)
    await _alarm(tx, moved)
    hint = "make sure that it is off, then use confirm-down"
    await wishes.settle_fences(
        tx, node.node_id, succeeded=False, why=f"the node is blocked: {why}; {hint}"
    )
    return True


async def alarm_blocked(tx: Transaction, node: NodeRow, *, every_s: float) -> bool:
    """Say again that a person must decide, unless it was said lately (by any monitor)."""
    if not await lock(tx, node):
        return False
    said = outbox.event
    lately = await tx.scalar(
        select(func.count()).where(
            said.c.subject == node.node_id,
            said.c.name == events.NodeBlocked.name,
            said.c.created_at > tx.now - timedelta(seconds=every_s),
        )
    )
    if lately or node.state is not NodeState.BLOCKED:
        return False
    await _alarm(tx, node)
    return True


async def _alarm(tx: Transaction, node: NodeRow) -> None:
    await tx.emit(
        events.NodeBlocked(
            node_id=node.node_id, node=node.name, why=node.reason, incarnation=node.incarnation
        )
    )
