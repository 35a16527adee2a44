"""Rules of the scheduler: when an instance may have another owner, and whom it believes."""

from __future__ import annotations

import contextvars
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import select

from evac_common.bus import topology
from evac_common.bus.port import Delivery, Handler, Queue, Verdict
from evac_common.messages import reports as wire
from evac_common.messages.codec import Envelope
from evac_common.messages.events import NodeDown, NodeRegistered, NodeUp
from evac_common.model.identity import Gen
from evac_common.model.states import Phase
from evac_common.store.intent import instance_spec
from evac_common.store.nodes import proof_node
from evac_lab.simulated.loop import PROCESS
from evac_scheduler import service
from evac_scheduler.adapters.ledger import Ledger
from evac_scheduler.adapters.reads import Reads
from evac_scheduler.core import life
from evac_scheduler.core.facts import Claim, Instance, Owner, Proof
from evac_scheduler.core.life import Do
from evac_scheduler.core.placement import NodeView, Request
from evac_scheduler.core.reports import Judgement, Speaker, Standing
from evac_scheduler.handlers import reports
from evac_scheduler.handlers.reports import Reports
from evac_scheduler.loops import reconciler
from tests.mutants.patching import Patching

TIMED_OUT: Final = "timed out"  # in place of a release
START_LIMIT_S: Final = 20.0


def timeout_releases(patching: Patching) -> None:
    """A start that is not answered in time is given to another node: no release, no proof."""
    attention, assign, request = Reads.attention, Ledger.assign, reconciler._request

    async def attention_(self: Reads) -> list[Instance]:
        return [_given_up(each, self) for each in await attention(self)]

    def _given_up(instance: Instance, records: Reads) -> Instance:
        if instance.owner is not Owner.LIVE or instance.changed_at is None:
            return instance
        waited_s = (records.tx.now - instance.changed_at).total_seconds()
        late = instance.phase is Phase.STARTING and waited_s > START_LIMIT_S
        if not late and instance.reserved_node_id is None:
            return instance
        return replace(instance, release_id=TIMED_OUT)

    async def assign_(self: Ledger, instance: Instance, node: NodeView) -> Claim:
        if instance.release_id == TIMED_OUT:
            patching.bite("another owner without a proof")
            instance = replace(instance, release_id=None, proof=None)
        return await assign(self, instance, node)

    def _request(instance: Instance) -> Request:
        asked = request(instance)
        if instance.release_id == TIMED_OUT and instance.claim is not None:
            return replace(asked, avoid_node_id=instance.claim.node_id)
        return asked

    patching.function(Reads, "attention", attention_)
    patching.function(Ledger, "assign", assign_)
    patching.function(reconciler, "_request", _request)


def events_are_believed(patching: Patching) -> None:
    """The scheduler keeps in memory what events say of nodes, and reads no proof."""
    receive, attention, any_work = service._receive, Reads.attention, Reads.any_work
    memories: dict[Any, dict[str, None]] = {}  # process → the nodes that it believes dead

    async def _receive(bus: Any, handlers: Any, wake: Any, enrolled: Any) -> None:
        down = memories[PROCESS.get()] = {}
        listening: Any = _Listening(bus, down)
        await receive(listening, handlers, wake, enrolled)

    async def attention_(self: Reads) -> list[Instance]:
        found = {each.instance_id: each for each in await attention(self)}
        down = memories.get(PROCESS.get(), {})
        if down:
            rows = await self.tx.rows(select(instance_spec.c.id))
            found = {**await self.known([row["id"] for row in rows]), **found}
        believed = []
        for each in found.values():
            if each.claim is None or each.claim.node_id not in down or each.owner is not Owner.LIVE:
                if life.decide(each).do is not Do.NOTHING:
                    believed.append(each)
                continue
            proof = await _any_proof(self, each.claim.node_id)
            if proof is None:
                continue
            patching.bite("dead by hearsay")
            believed.append(replace(each, proof=proof))
        return sorted(believed, key=lambda each: each.priority_key)

    async def any_work_(self: Reads) -> bool:
        return bool(memories.get(PROCESS.get())) or await any_work(self)

    patching.function(service, "_receive", _receive)
    patching.function(Reads, "any_work", any_work_)
    patching.function(Reads, "attention", attention_)


class _Listening:
    """A bus on which somebody else hears what events say of nodes."""

    def __init__(self, bus: Any, down: dict[str, None]) -> None:
        self._bus, self._down = bus, down

    async def consume(self, queue: Queue, handler: Handler, *, prefetch: int) -> Any:
        if queue != topology.SCHEDULER_EVENTS:
            return await self._bus.consume(queue, handler, prefetch=prefetch)

        async def heard(delivery: Delivery) -> Verdict:
            name, _, node_id = delivery.routing_key.rpartition(".")
            if name == NodeDown.name:
                self._down[node_id] = None
            elif name in (NodeUp.name, NodeRegistered.name):
                self._down.pop(node_id, None)
            return await handler(delivery)

        return await self._bus.consume(queue, heard, prefetch=prefetch)


async def _any_proof(records: Reads, node_id: str) -> Proof | None:
    row = await records.tx.row(
        select(proof_node)
        .where(proof_node.c.node_id == node_id)
        .order_by(proof_node.c.incarnation.desc())
    )
    if row is None:
        return None
    return Proof(
        proof_id=row["id"],
        incarnation=row["incarnation"],
        kind=row["kind"],
        created_at=row["created_at"],
    )


def any_stop_releases(patching: Patching) -> None:
    """A `stopped` of the owner's node releases its present epoch, whichever it is about."""
    judge, stopped = vars(reports)["judge"], Reports.stopped
    about_a_stop = contextvars.ContextVar("about_a_stop", default=False)

    def judge_(
        speaker: Speaker | None,
        gen: Gen,
        epoch: int,
        claim: Claim | None,
        *,
        released: bool,
        dead: bool,
    ) -> Judgement:
        verdict: Judgement = judge(speaker, gen, epoch, claim, released=released, dead=dead)
        if verdict.accepted or not about_a_stop.get() or released or dead:
            return verdict
        if speaker is None or claim is None or claim.node_id != speaker.node_id:
            return verdict
        patching.bite("released by a stale report")
        return Judgement(standing=Standing.ACCEPTED, why="it stopped")

    async def stopped_(self: Reports, envelope: Envelope, report: wire.Stopped) -> Verdict:
        token = about_a_stop.set(True)
        try:
            return await stopped(self, envelope, report)
        finally:
            about_a_stop.reset(token)

    patching.function(reports, "judge", judge_)
    patching.function(Reports, "stopped", stopped_)
