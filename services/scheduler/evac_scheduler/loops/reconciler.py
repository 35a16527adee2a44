"""The reconciler: read the rows, ask the core, carry out. Every step may be repeated, late, raced.

Steps are transactions of their own, so a crash between any two leaves rows from which the next
sweep goes on. Steps that book or start anything hold the planning lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import structlog

from evac_common.messages import events
from evac_common.model.states import Phase
from evac_common.service.clock import Clock
from evac_scheduler.core import backoff, evacuation, life, placement
from evac_scheduler.core.evacuation import On
from evac_scheduler.core.facts import Instance, Owner
from evac_scheduler.core.life import Do
from evac_scheduler.core.orders import PoolSource
from evac_scheduler.core.placement import Decision, NodeView, PoolView, Request
from evac_scheduler.core.policy import Policy
from evac_scheduler.loops.recovery import Recovery
from evac_scheduler.loops.starts import Starts
from evac_scheduler.loops.transactions import in_transaction, trusting
from evac_scheduler.ports import (
    Booking,
    Database,
    ItemChange,
    Overdue,
    Records,
    StatusChange,
    Wish,
)


class Reconciler:
    def __init__(self, database: Database, clock: Clock, policy: Policy) -> None:
        self._database = database
        self._clock = clock
        self._policy = policy
        self._starts = Starts(database, policy)
        self._recovery = Recovery(database)
        self._log = structlog.get_logger()

    async def step(self) -> None:
        """One sweep. Mostly there is nothing to do, and one question tells."""
        async with self._database.read() as records:
            distrust = await records.distrust()
            if not distrust and not await records.any_work():
                return
        if distrust:
            await self._recovery.step(distrust)
            return
        self._recovery.over()
        await in_transaction(self._database, trusting(self.settle))
        await in_transaction(self._database, trusting(self.plan))
        await self._starts.launch()
        await in_transaction(self._database, self._starts.resend)
        await in_transaction(self._database, trusting(self.finish))

    # 1. what became true since the last sweep

    async def settle(self, records: Records) -> None:
        """New instances, lost reservations, dead owners, and what should not run any more."""
        await records.lock_planning()
        found = await records.attention()
        await records.introduce([each for each in found if each.phase is None])
        lost = await self._return_lost_bookings(records)
        dead: dict[tuple[str, int], list[Instance]] = {}
        for instance in found:
            row = life.decide(instance)
            if instance.unreadable and instance.wanted:
                await self._tell_unreadable(records, instance, row.why)
            if _must_recover(instance):
                assert instance.claim is not None, "a dead owner has a ledger row"
                assert instance.proof is not None, "a dead owner has a proof"
                key = (instance.claim.node_id, instance.proof.incarnation)
                dead.setdefault(key, []).append(instance)
            match row.do:
                case Do.SETTLE_STOPPED | Do.NOTHING:
                    await self._settle_stopped(records, instance, row.why)
                case Do.BEGIN_STOP:
                    await self._begin_stop(records, instance, row.why)
                case _:
                    pass
        for (node_id, _), instances in sorted(dead.items()):
            await self._recover(records, node_id, instances)
        if lost:
            self._log.info("reservations returned", count=lost)

    @staticmethod
    async def _tell_unreadable(records: Records, instance: Instance, why: str) -> None:
        """Once per cause. What it was, running or not, it stays."""
        if instance.reason == why:
            return
        to = StatusChange(
            phase=instance.phase or Phase.PENDING,
            why=why,
            attempts=instance.attempts,
            next_at=instance.next_at,
            node_id=instance.claim.node_id if instance.claim and instance.seen_run else None,
            epoch=instance.seen_epoch,
            run=instance.seen_run,
        )
        if await records.change(instance, to):
            await records.emit(
                events.InstanceUnreadable(
                    instance_id=instance.instance_id, instance=instance.name, why=why
                )
            )

    async def _return_lost_bookings(self, records: Records) -> int:
        lost = await records.lost_bookings()
        await records.unbook([booking.instance_id for booking in lost])
        for booking in lost:
            reason = f"its target {booking.node} is {booking.state}: nothing was started there"
            await records.move_items(
                booking.instance_id, ItemChange(on=On.TARGET_LEFT, reason=reason)
            )
        return len(lost)

    async def _settle_stopped(self, records: Records, instance: Instance, why: str) -> None:
        claim = instance.claim
        if instance.phase is not Phase.STOPPED:
            await records.unbook([instance.instance_id])
            changed = await records.change(
                instance, StatusChange(phase=Phase.STOPPED, why=why, attempts=0)
            )
            if not changed:
                return
            await self._cancel(records, instance)
            await records.answered(instance.instance_id, ("start", "stop"))
            if instance.owner is Owner.DEAD and claim is not None:
                await records.emit(
                    events.InstanceStopped(
                        instance_id=instance.instance_id,
                        instance=instance.name,
                        why=why,
                        node_id=claim.node_id,
                        node=claim.node,
                        epoch=claim.epoch,
                    )
                )
        if instance.is_gone:
            await self._cancel(records, instance)
            await records.clear_away(instance.instance_id)

    async def _cancel(self, records: Records, instance: Instance) -> None:
        gone = "deleted" if instance.is_gone else "its user does not want it to run"
        await records.move_items(instance.instance_id, ItemChange(on=On.UNWANTED, reason=gone))

    async def _begin_stop(self, records: Records, instance: Instance, why: str) -> None:
        claim = instance.claim
        assert claim is not None, "only an owner can be asked to stop"
        to = StatusChange(
            phase=Phase.STOPPING,
            why=why,
            attempts=0,
            node_id=claim.node_id,
            epoch=claim.epoch,
            run=claim.run,
        )
        if await records.change(instance, to):
            await self._cancel(records, instance)
            await records.answered(instance.instance_id, ("start",))

    async def _recover(self, records: Records, node_id: str, instances: Sequence[Instance]) -> None:
        """Open items for the instances of one dead incarnation, all at once."""
        proof = instances[0].proof
        assert proof is not None, "a dead owner has a proof"
        node = instances[0].claim.node if instances[0].claim else node_id
        for instance in instances:
            settled = instance.phase in (None, Phase.PENDING) and instance.seen_run is None
            if settled or instance.unreadable:
                continue
            why = f"its node {node} is proven dead ({proof.kind})"
            to = StatusChange(phase=Phase.PENDING, why=why, attempts=0)
            if await records.change(instance, to):
                await records.answered(instance.instance_id, ("start", "stop"))
                await records.move_items(
                    instance.instance_id, ItemChange(on=On.TARGET_DIED, reason=why)
                )
        opened = await records.open_items(proof, node_id, instances)
        if opened is not None:
            evacuation_id = await records.evacuation_id(node_id, proof.incarnation)
            await records.emit(
                events.EvacuationOpened(
                    evacuation_id=evacuation_id, node_id=node_id, node=node, instances=opened
                )
            )
            self._log.info("evacuation opened", node=node, count=opened, why=proof.kind)

    # 2. where everything without an owner goes: one plan, one transaction

    async def plan(self, records: Records) -> None:
        await records.lock_planning()
        began_s = self._clock.monotonic()
        found = await records.attention()
        await self._hold(records, found)
        waiting = {each.instance_id: each for each in found if self._needs_place(each, records.now)}
        if not waiting:
            return
        view = _view(await records.nodes(), await records.pools())
        decisions = placement.plan(view, [_request(each) for each in waiting.values()])
        placed = [each for each in decisions if each.node_id is not None]
        await records.book([_booking(each) for each in placed])
        names = {node.node_id: node.name for node in view.nodes}
        news = False
        for decision in decisions:
            instance = waiting[decision.request.instance_id]
            news = await self._note(records, instance, decision, names) or news
        if news:
            await self._tell_plan(records, decisions)
        await records.planned(self._clock.monotonic() - began_s)

    @staticmethod
    async def _hold(records: Records, found: Sequence[Instance]) -> None:
        """Say, once, why what should be started is not."""
        for instance in found:
            why = life.held(instance)
            starts = life.decide(instance).do in (Do.PLACE, Do.RECOVER, Do.START_AGAIN)
            if not (why and starts) or instance.phase is None or instance.reason == why:
                continue
            await records.unbook([instance.instance_id])
            to = StatusChange(
                phase=instance.phase,
                why=why,
                attempts=instance.attempts,
                next_at=instance.next_at,
                epoch=instance.seen_epoch,
                run=instance.seen_run,
                node_id=instance.claim.node_id if instance.claim and instance.seen_run else None,
            )
            await records.change(instance, to)
            await records.move_items(
                instance.instance_id, ItemChange(on=On.TARGET_LEFT, reason=why)
            )
            await records.move_items(instance.instance_id, ItemChange(on=On.NO_TARGET, reason=why))

    def _needs_place(self, instance: Instance, now: datetime) -> bool:
        return (
            life.decide(instance).do in (Do.PLACE, Do.RECOVER)
            and not life.held(instance)
            and instance.phase is not None
            and instance.reserved_node_id is None
            and backoff.due(instance.next_at, now, longest_s=self._policy.longest_pause_s)
        )

    async def _note(
        self, records: Records, instance: Instance, decision: Decision, names: Mapping[str, str]
    ) -> bool:
        """Write one decision down; says whether it is news."""
        why = decision.why
        if decision.node_id is None and instance.reason == why and instance.phase is Phase.PENDING:
            return False  # as at the last sweep: nothing to write
        candidates = [candidate.as_json() for candidate in decision.candidates]
        to = StatusChange(
            phase=Phase.PENDING, why=why, attempts=instance.attempts, candidates=candidates
        )
        await records.change(instance, to)
        await records.move_items(
            instance.instance_id,
            ItemChange(
                on=On.NO_TARGET if decision.node_id is None else On.RESERVED,
                reason=why,
                target_node_id=decision.node_id,
                attempts=instance.attempts,
                candidates=candidates,
            ),
        )
        chosen = None if decision.node_id is None else names[decision.node_id]
        self._log.info("planned", instance=instance.name, node=chosen, why=why)
        return True

    async def _tell_plan(self, records: Records, decisions: Sequence[Decision]) -> None:
        reserved = [each.request.instance_id for each in decisions if each.node_id is not None]
        waiting = [each.request.instance_id for each in decisions if each.node_id is None]
        counts: dict[str, list[int]] = {}
        about = {}
        for index, ids in enumerate((reserved, waiting)):
            for item in await records.planned_evacuations(ids):
                about[item.evacuation_id] = item
                counts.setdefault(item.evacuation_id, [0, 0])[index] += 1
        for evacuation_id, (booked, open_) in sorted(counts.items()):
            item = about[evacuation_id]
            await records.emit(
                events.EvacuationPlanned(
                    evacuation_id=evacuation_id,
                    node_id=item.node_id,
                    node=item.node,
                    reserved=booked,
                    waiting=open_,
                )
            )

    # 5. what is over

    async def finish(self, records: Records) -> None:
        for closed in await records.finished():
            took_s = evacuation.took_s(closed.proven_at, records.now)
            await records.emit(
                events.EvacuationDone(
                    evacuation_id=closed.evacuation_id,
                    node_id=closed.node_id,
                    node=closed.node,
                    instances=closed.items,
                    took_s=took_s,
                )
            )
            self._log.info("evacuation done", node=closed.node, count=closed.items, took_s=took_s)
        for late in await records.overdue(
            open_s=self._policy.open_alarm_s, again_s=self._policy.open_alarm_again_s
        ):
            await self._tell_overdue(records, late)
        wishes = await records.wishes()
        if wishes:
            await self._answer(records, wishes)

    async def _tell_overdue(self, records: Records, late: Overdue) -> None:
        waits_s = (records.now - late.since).total_seconds()
        await records.emit(
            events.InstanceWaiting(
                instance_id=late.instance_id,
                instance=late.instance,
                why=late.reason,
                node_id=late.node_id,
                node=late.node,
                waits_s=waits_s,
            )
        )
        self._log.error("still open", instance=late.instance, why=late.reason, waits_s=waits_s)

    async def _answer(self, records: Records, wishes: Sequence[Wish]) -> None:
        # Beside the open items: dead instances that this sweep came too early to make items of.
        left: dict[str, int] = {}
        for each in await records.attention():
            if each.claim is not None and _must_recover(each):
                left[each.claim.node_id] = left.get(each.claim.node_id, 0) + 1
        for wish in wishes:
            answer = evacuation.answer_wish(
                wish.state,
                evacuations=wish.evacuations,
                waiting=max(left.get(wish.node_id, 0), wish.open_items),
            )
            if answer.succeeded is not None:
                await records.answer(wish, succeeded=answer.succeeded, reason=answer.why)


def _must_recover(instance: Instance) -> bool:
    """It should run and its owner is dead: an open item, also while it cannot be read."""
    dead = instance.owner is Owner.DEAD and instance.wanted
    return life.decide(instance).do is Do.RECOVER or (dead and bool(instance.unreadable))


def _request(instance: Instance) -> Request:
    manifest = instance.manifest
    assert manifest is not None, "an instance without a record is never placed"
    failed_there = instance.claim is not None and instance.attempts > 0
    return Request(
        instance_id=instance.instance_id,
        name=instance.name,
        priority=manifest.priority,
        vcpus=manifest.vcpus,
        memory_mib=manifest.memory_mib,
        pools=tuple(disk.pool for disk in manifest.disks),
        bridges=tuple(nic.bridge for nic in manifest.nics),
        node_selector=manifest.node_selector,
        avoid_node_id=instance.claim.node_id if instance.claim and failed_there else None,
    )


def _view(nodes: tuple[NodeView, ...], pools: Mapping[str, PoolSource]) -> placement.View:
    return placement.View(
        nodes=nodes,
        pools={name: PoolView(name=name, nodes=pool.nodes) for name, pool in pools.items()},
    )


def _booking(decision: Decision) -> Booking:
    assert decision.node_id is not None, "only a decision with a target is booked"
    return Booking(
        instance_id=decision.request.instance_id,
        node_id=decision.node_id,
        vcpus=decision.request.vcpus,
        memory_mib=decision.request.memory_mib,
    )
