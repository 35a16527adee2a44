"""Rules of the monitor: what a proof is, and whether it may cut a node off at all."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import update

from evac_common.errors import StoreUnavailable
from evac_common.store import nodes
from evac_common.store.transaction import Transaction
from evac_monitor.adapters import flags, rows
from evac_monitor.adapters.store import StoreRecords
from evac_monitor.core import fencing, gate
from evac_monitor.core.gate import Answer, Gate
from evac_monitor.core.states import On
from evac_monitor.loops import fencer
from evac_monitor.ports import Flags, NodeRow, PowerDriver, PowerTarget
from tests.mutants.patching import Patching


def no_fence(patching: Patching) -> None:
    """The decision to cut a node off is taken for its death: nobody switches it off or looks."""

    def next_move(progress: fencing.Progress, now_s: float, policy: fencing.Policy) -> fencing.Move:
        patching.bite("proven without a reading")
        nothing = fencing.Reading(asked_s=now_s, answered_s=now_s)
        return fencing.Proven(readings=(nothing, nothing))

    patching.function(fencing, "next_move", next_move)


def trust_the_order(patching: Patching) -> None:
    """The BMC's answer to the order to power off is the proof; its power is not read again."""
    original = fencing.next_move

    def next_move(progress: fencing.Progress, now_s: float, policy: fencing.Policy) -> fencing.Move:
        if progress.order_accepted and progress.readings:
            patching.bite("proven by an accepted order")
            last = progress.readings[-1]
            return fencing.Proven(readings=(last, last))
        return original(progress, now_s, policy)

    patching.function(fencing, "next_move", next_move)


def any_bmc(patching: Patching) -> None:
    """Nobody asks a BMC whose machine it sits on."""

    async def identify(driver: PowerDriver, target: PowerTarget, node: NodeRow) -> None:
        patching.bite("not asked whose it is")

    patching.function(fencer, "identify", identify)


def no_cas(patching: Patching) -> None:
    """`fenced` and its proof are written for whatever the node has become since the decision."""
    original = rows.move

    async def move(
        tx: Transaction, node: NodeRow, on: On, why: str, *, actor: str = rows.ACTOR, **values: Any
    ) -> NodeRow | None:
        if on is not On.POWER_PROVEN:
            return await original(tx, node, on, why, actor=actor, **values)
        now = await rows.find_node(tx, node.node_id)
        if now is None:
            return None
        same = (now.state, now.incarnation, now.generation)
        if same == (node.state, node.incarnation, node.generation):
            return await original(tx, node, on, why, actor=actor, **values)
        patching.bite("proven of what it has become")
        state = nodes.node_state
        await tx.execute(
            update(state)
            .where(state.c.node_id == node.node_id)
            .values(
                state="fenced",
                generation=now.generation + 1,
                reason=why,
                since=tx.now,
                decision=values.get("decision", []),
            )
        )
        return await rows.find_node(tx, node.node_id)

    patching.function(rows, "move", move)


def no_spare(patching: Patching) -> None:
    """A try goes on at a node that has come back meanwhile."""

    def _spare(self: fencer.Fencer, doomed: Any) -> None:
        patching.bite("not given up")

    patching.function(fencer.Fencer, "_spare", _spare)


def kept_readings(patching: Patching) -> None:
    """What a try has read is written however late the database takes it."""
    original = StoreRecords.prove_off

    async def prove_off(
        self: StoreRecords, node: NodeRow, attempt_id: str, evidence: dict[str, Any]
    ) -> bool:
        while True:
            try:
                return await original(self, node, attempt_id, evidence)
            except StoreUnavailable:
                patching.bite("readings kept")
                await asyncio.sleep(1.0)

    patching.function(StoreRecords, "prove_off", prove_off)


def without_gate(name: Gate) -> Any:
    """A gate that is always open. Others, and what is checked again at the commit, stay."""

    def apply(patching: Patching) -> None:
        original = gate.GATES[name]

        def open_gate(view: gate.View, subject: gate.Subject, policy: gate.Policy) -> Answer:
            answer = original(view, subject, policy)
            if answer.open:
                return answer
            patching.bite(f"{name.value} ignored")
            return Answer(gate=name, open=True, why="nobody asks")

        patching.entry(gate.GATES, name, open_gate)

    return apply


def uncounted(patching: Patching) -> None:
    """The last look at the flags, in the transaction of the decision itself, is left out."""
    original = flags.count_fencing

    async def count_fencing(tx: Transaction, seen: Flags, *, in_storm: bool) -> bool:
        if await original(tx, seen, in_storm=in_storm):
            return True
        patching.bite("flags not looked at again")
        await flags.note_fencing(tx)
        return True

    patching.function(flags, "count_fencing", count_fencing)


def no_storm(patching: Patching) -> None:
    """However many nodes are silent, no storm is declared."""

    def storm_to_declare(view: gate.View, policy: gate.Policy) -> str:
        patching.bite("no storm declared")
        return ""

    patching.function(gate, "storm_to_declare", storm_to_declare)
