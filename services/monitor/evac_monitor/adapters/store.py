"""`Records` on the database: each method is one transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy import and_, bindparam, delete, exists, insert, select, update

from evac_common.errors import Conflict, StoreUnavailable
from evac_common.messages import events
from evac_common.messages.reports import Registered, SessionApplied
from evac_common.model.states import NodeState, ProofKind, Trouble
from evac_common.store import intent, nodes, placement
from evac_common.store.columns import UtcTime
from evac_common.store.engine import Store
from evac_common.store.transaction import Transaction
from evac_monitor.adapters import (
    attempts,
    changing,
    flags,
    proving,
    recovering,
    registering,
    rows,
    wishes,
)
from evac_monitor.core import fencing
from evac_monitor.core.gate import Answer, OnIsolated
from evac_monitor.core.states import On
from evac_monitor.core.trouble import NO_TROUBLES, Unanswered
from evac_monitor.core.wishes import ClusterVerb, Refuse, Succeed
from evac_monitor.ports import ClusterWish, Doomed, Flags, Handled, NodeRow, NodeWish, Snapshot

_STATE = nodes.node_state
_PROOF = nodes.proof_node

# Read all the time, so made once.
_ALL_NODES: Final = rows.NODES.order_by(_STATE.c.node_id)
_DOOMED: Final = (
    rows.NODES.add_columns(recovering.ONLY_READ.label("only_read"))
    .where(_STATE.c.state.in_((NodeState.FENCING.value, NodeState.BLOCKED.value)))
    .order_by(_STATE.c.since, _STATE.c.node_id)
)
_POWERED_OFF: Final = (
    select(_PROOF.c.node_id, _PROOF.c.created_at, _PROOF.c.evidence)
    .where(
        _PROOF.c.kind == ProofKind.POWER.value,
        _PROOF.c.actor == rows.ACTOR,
        _PROOF.c.created_at > bindparam("since", type_=UtcTime),
    )
    .order_by(_PROOF.c.created_at)
)
_COMMAND = placement.command
# The session is the one the command was issued for, and the scheduler has not given up sending it.
_UNANSWERED: Final = (
    select(
        _COMMAND.c.node_id,
        _COMMAND.c.instance_id,
        _COMMAND.c.verb,
        _COMMAND.c.epoch,
        _COMMAND.c.run,
    )
    .join(_STATE, _STATE.c.node_id == _COMMAND.c.node_id)
    .where(
        _STATE.c.state.in_((NodeState.UP.value, NodeState.DEGRADED.value)),
        _STATE.c.isolated.is_(False),
        _COMMAND.c.term == _STATE.c.term,
        _COMMAND.c.incarnation == _STATE.c.incarnation,
        _COMMAND.c.next_at > bindparam("since", type_=UtcTime),
    )
    .order_by(_COMMAND.c.node_id, _COMMAND.c.instance_id)
)
#: A command whose next sending is overdue by this is nobody's concern any more: the scheduler is
#: away, and then answers are not read either, or it has dropped it.
_RESEND_LATE_S: Final = 60.0


class StoreRecords:
    """`monitor` names this process in the tries it runs; it must be new at every start."""

    def __init__(self, store: Store, *, monitor: str) -> None:
        self._store = store
        self._monitor = monitor
        self._position: int | None = None  # of the database's own count, as last read

    async def _once(self, step: Callable[[Transaction], Awaitable[bool]]) -> bool:
        """Run a compare-and-set; False also when another monitor inserted the same row first."""
        try:
            async with self._store.transaction() as tx:
                return await step(tx)
        except Conflict:
            return False

    async def prepare(self) -> bool:
        async def step(tx: Transaction) -> bool:
            rose, self._position = await recovering.prepare(tx, self._position)
            return rose

        return await self._once(step)

    async def ahead(self, node_id: str, incarnation: int, term: int) -> bool:
        return await self._once(lambda tx: recovering.ahead(tx, node_id, incarnation, term))

    async def session_anew(self, node: NodeRow) -> bool:
        return await self._once(lambda tx: registering.session_anew(tx, node))

    async def ask_to_register(self, node: NodeRow, incarnation: int) -> bool:
        return await self._once(lambda tx: registering.ask_to_register(tx, node, incarnation))

    async def vouch(self, node: NodeRow, wish: NodeWish) -> bool:
        return await self._once(lambda tx: proving.vouch(tx, node, wish))

    async def finish_recovery(self) -> str:
        async with self._store.transaction() as tx:
            return await recovering.finish(tx)

    async def probe(self) -> None:
        async with self._store.transaction() as tx:
            await flags.probe(tx)

    async def snapshot(self, *, window_s: float) -> Snapshot:
        async with self._store.read() as tx:
            known = await rows.read_flags(tx)
            if known is None:
                raise StoreUnavailable("the cluster's flags are not there yet")
            found = await tx.rows(_ALL_NODES)
            powered_off = await tx.rows(
                _POWERED_OFF, {"since": tx.now - timedelta(seconds=window_s)}
            )
            return Snapshot(
                now=tx.now,
                flags=known,
                nodes=[rows.node_row(row) for row in found],
                powered_off={
                    row["node_id"]: row["created_at"]
                    for row in powered_off
                    if not row["evidence"].get("found_off", False)
                },
            )

    async def adopt(self) -> tuple[int, int]:
        async with self._store.read() as tx:
            arrived = await self._arrived(tx)
            gone = [row["node_id"] for row in await tx.rows(_forgotten())]
        if not arrived and not gone:
            return 0, 0
        made = removed = 0
        for node_id in arrived:
            made += await self._once(partial(_adopt, node_id=node_id))
        for node_id in gone:
            removed += await self._once(partial(_forget, node_id=node_id))
        return made, removed

    async def _arrived(self, tx: Transaction) -> list[str]:
        spec = intent.node_spec
        found = await tx.rows(
            select(spec.c.id)
            .outerjoin(_STATE, _STATE.c.node_id == spec.c.id)
            .where(_STATE.c.node_id.is_(None))
            .order_by(spec.c.id)
        )
        return [row["id"] for row in found]

    async def register(self, report: Registered) -> Handled:
        async with self._store.transaction() as tx:
            return await registering.register(tx, report)

    async def session_applied(self, report: SessionApplied) -> Handled:
        async with self._store.transaction() as tx:
            return await registering.session_applied(tx, report)

    async def remind(self, node: NodeRow) -> bool:
        return await self._once(lambda tx: registering.remind(tx, node))

    async def change(
        self,
        node: NodeRow,
        on: On,
        why: str,
        *,
        silent_s: float,
        heard_at: datetime | None,
        troubles: Mapping[Trouble, str] = NO_TROUBLES,
        isolated: bool = False,
    ) -> bool:
        return await self._once(
            lambda tx: changing.change(
                tx,
                node,
                on,
                why,
                silent_s=silent_s,
                heard_at=heard_at,
                troubles=troubles,
                isolated=isolated,
            )
        )

    async def mark_isolated(
        self, node: NodeRow, isolated: bool, why: str, on_isolated: OnIsolated
    ) -> bool:
        return await self._once(
            lambda tx: changing.mark_isolated(tx, node, isolated, why, on_isolated)
        )

    async def unanswered(self) -> Sequence[Unanswered]:
        async with self._store.read() as tx:
            found = await tx.rows(
                _UNANSWERED, {"since": tx.now - timedelta(seconds=_RESEND_LATE_S)}
            )
        return [
            Unanswered(
                node_id=row["node_id"],
                asked=(row["instance_id"], row["verb"], row["epoch"], row["run"]),
            )
            for row in found
        ]

    async def hold(
        self, node: NodeRow, answers: Sequence[Answer], newly_shut: Sequence[Answer]
    ) -> bool:
        async def step(tx: Transaction) -> bool:
            changed = await tx.change(
                update(_STATE)
                .where(
                    _STATE.c.node_id == node.node_id,
                    _STATE.c.state == NodeState.SUSPECT.value,
                    _STATE.c.generation == node.generation,
                )
                .values(decision=[answer.as_json() for answer in answers])
            )
            if changed != 1:
                return False
            for answer in newly_shut:
                await tx.emit(
                    events.FencingHeld(
                        node_id=node.node_id,
                        node=node.name,
                        gate=answer.gate.value,
                        why=answer.why,
                    )
                )
            return True

        return await self._once(step)

    async def note_heard(self, heard_at: dict[str, datetime]) -> None:
        async with self._store.transaction() as tx:
            await tx.execute(
                update(_STATE)
                .where(_STATE.c.node_id == bindparam("of_node"))
                .values(heard_at=bindparam("at", type_=UtcTime)),
                [{"of_node": node_id, "at": at} for node_id, at in sorted(heard_at.items())],
            )

    async def declare_storm(self, why: str, names: Sequence[str]) -> bool:
        return await self._once(lambda tx: flags.declare_storm(tx, why, names))

    async def begin_fencing(
        self,
        node: NodeRow,
        seen: Flags,
        answers: Sequence[Answer],
        why: str,
        *,
        found_off: bool = False,
    ) -> bool:
        return await self._roll_back_unless(
            lambda tx: proving.begin_fencing(
                tx, node, seen, answers, why, self._monitor, found_off=found_off
            )
        )

    async def begin_fencing_for(self, node: NodeRow, wish: NodeWish) -> bool:
        return await self._roll_back_unless(
            lambda tx: proving.begin_fencing_for(tx, node, wish, self._monitor)
        )

    async def _roll_back_unless(self, step: Callable[[Transaction], Awaitable[bool]]) -> bool:
        """For steps that write before their last compare-and-set."""
        try:
            async with self._store.transaction() as tx:
                if not await step(tx):
                    raise _Lost
                return True
        except (_Lost, Conflict):
            return False

    async def doomed(self) -> Sequence[Doomed]:
        async with self._store.read() as tx:
            found = await tx.rows(_DOOMED)
            doomed = []
            for row in found:
                node = rows.node_row(row)
                tries = await attempts.of_node(tx, node, self._monitor)
                doomed.append(Doomed(node=node, attempts=tries, only_read=row["only_read"]))
            return doomed

    async def begin_try(
        self,
        node: NodeRow,
        step: fencing.Try | fencing.Resume,
        seen: Sequence[fencing.Attempt],
        *,
        only_read: bool,
    ) -> str | None:
        async with self._store.transaction() as tx:
            return await proving.begin_try(tx, node, step, seen, self._monitor, only_read=only_read)

    async def end_try(self, attempt_id: str, state: fencing.AttemptState, detail: str) -> bool:
        return await self._once(
            lambda tx: attempts.end(tx, attempt_id, state, detail, self._monitor)
        )

    async def prove_off(self, node: NodeRow, attempt_id: str, evidence: dict[str, Any]) -> bool:
        return await self._once(
            lambda tx: proving.prove_off(tx, node, attempt_id, evidence, self._monitor)
        )

    async def block(self, node: NodeRow, why: str) -> bool:
        return await self._once(lambda tx: proving.block(tx, node, why))

    async def alarm_blocked(self, node: NodeRow, *, every_s: float) -> bool:
        return await self._once(lambda tx: proving.alarm_blocked(tx, node, every_s=every_s))

    async def open_node_wishes(self) -> Sequence[NodeWish]:
        async with self._store.read() as tx:
            return await wishes.open_node_wishes(tx)

    async def open_cluster_wishes(self) -> Sequence[ClusterWish]:
        async with self._store.read() as tx:
            return await wishes.open_cluster_wishes(tx)

    async def answer(self, wish: NodeWish, decision: Succeed | Refuse) -> bool:
        async def step(tx: Transaction) -> bool:
            if await wishes.answered(tx, wish.wish_id):
                return False
            succeeded = isinstance(decision, Succeed)
            await wishes.answer(tx, wish.wish_id, succeeded=succeeded, why=decision.why)
            await tx.audit(
                actor=wish.actor,
                action=f"wish.{wish.verb}",
                subject=wish.node_id,
                reason=decision.why,
                detail={"wish_id": wish.wish_id, "succeeded": succeeded},
            )
            return True

        return await self._once(step)

    async def confirm_down(self, node: NodeRow, wish: NodeWish) -> bool:
        return await self._once(lambda tx: proving.confirm_down(tx, node, wish))

    async def remind_disarmed(self, *, every_s: float) -> str:
        said: list[str] = []

        async def step(tx: Transaction) -> bool:
            said[:] = [await flags.remind_disarmed(tx, every_s)]
            return bool(said[0])

        return said[0] if await self._once(step) else ""

    async def carry_out(self, wish: ClusterWish) -> bool:
        async def step(tx: Transaction) -> bool:
            if await wishes.answered(tx, wish.wish_id):
                return False
            match ClusterVerb(wish.verb):
                case ClusterVerb.DISARM:
                    succeeded, why = await flags.disarm(tx, wish)
                case ClusterVerb.ARM:
                    succeeded, why = await flags.arm(tx, wish)
                case ClusterVerb.STORM_RELEASE:
                    succeeded, why = await flags.release_storm(tx, wish)
                case ClusterVerb.RESTORED:
                    succeeded, why = await recovering.restored(tx, wish)
            await wishes.answer(tx, wish.wish_id, succeeded=succeeded, why=why)
            await tx.audit(
                actor=wish.actor,
                action=f"cluster.{wish.verb}",
                subject="cluster",
                reason=wish.reason,
                detail={"wish_id": wish.wish_id, "outcome": why},
            )
            return True

        return await self._once(step)


class _Lost(Exception):
    """Somebody else was first: undo what this transaction wrote."""


async def _adopt(tx: Transaction, node_id: str) -> bool:
    await tx.execute(
        insert(_STATE).values(
            node_id=node_id,
            state=NodeState.NEW.value,
            term=0,
            incarnation=0,
            generation=0,
            reason="enrolled; it has not registered yet",
            since=tx.now,
            decision=[],
        )
    )
    return True


def _forgotten() -> Any:
    """Nodes without a declaration that may go: new or fenced, and owners of nothing."""
    spec, own, release = intent.node_spec, placement.ownership, placement.proof_release
    later = own.alias("later")
    owns = exists().where(
        own.c.node_id == _STATE.c.node_id,
        ~exists().where(later.c.instance_id == own.c.instance_id, later.c.epoch > own.c.epoch),
        ~exists().where(
            and_(release.c.instance_id == own.c.instance_id, release.c.epoch == own.c.epoch)
        ),
    )
    return select(_STATE.c.node_id, _STATE.c.generation).where(
        ~exists().where(spec.c.id == _STATE.c.node_id),
        _STATE.c.state.in_((NodeState.NEW.value, NodeState.FENCED.value)),
        ~owns,
    )


async def _forget(tx: Transaction, node_id: str) -> bool:
    """Proofs stay: the ledger's history refers to them."""
    row = await tx.row(_forgotten().where(_STATE.c.node_id == node_id))
    if row is None:
        return False
    changed = await tx.change(
        delete(_STATE).where(_STATE.c.node_id == node_id, _STATE.c.generation == row["generation"])
    )
    if changed != 1:
        return False
    facts = nodes.node_facts
    await tx.execute(delete(facts).where(facts.c.node_id == node_id))
    await tx.audit(
        actor=rows.ACTOR,
        action="node.forget",
        subject=node_id,
        reason="it is not enrolled any more",
    )
    return True
