"""Starts, in waves, and commands that nobody has answered."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from evac_common.errors import Conflict, LedgerRefused
from evac_common.messages import events
from evac_common.model.identity import Gen
from evac_common.model.states import NodeState, Phase
from evac_scheduler.core import backoff, evacuation, life, orders, sending
from evac_scheduler.core.evacuation import On
from evac_scheduler.core.facts import Claim, Instance
from evac_scheduler.core.life import Do
from evac_scheduler.core.orders import PoolSource
from evac_scheduler.core.placement import NodeView
from evac_scheduler.core.policy import Policy
from evac_scheduler.loops.transactions import in_transaction
from evac_scheduler.ports import Database, ItemChange, Kept, Records, StatusChange


def _later(now: datetime, delay_s: float) -> datetime:
    return now + timedelta(seconds=delay_s)


class Starts:
    """Starts in waves, and commands that were not answered."""

    def __init__(self, database: Database, policy: Policy) -> None:
        self._database = database
        self._policy = policy
        self._log = structlog.get_logger()

    # 3. starts, in waves

    async def launch(self) -> None:
        """Start the next wave. A start that the ledger refuses must not hold up the others."""
        chosen: list[str] = []
        try:
            await in_transaction(self._database, lambda records: self._launch_wave(records, chosen))
        except LedgerRefused as refused:
            self._log.warning("the ledger refused a wave: one by one now", why=str(refused))
            for instance_id in tuple(chosen):
                await self._launch_one(instance_id)

    async def _launch_one(self, instance_id: str) -> None:
        try:
            await in_transaction(
                self._database, lambda records: self._launch_wave(records, [], only=instance_id)
            )
        except LedgerRefused as refused:
            self._log.error(
                "the ledger refused an owner", instance_id=instance_id, why=str(refused)
            )

    async def _launch_wave(
        self, records: Records, chosen: list[str], *, only: str | None = None
    ) -> None:
        """`chosen` receives who is started, also when the transaction fails afterwards."""
        if await records.distrust():
            return
        await records.lock_planning()
        found = {each.instance_id: each for each in await records.attention()}
        longest_s = self._policy.longest_pause_s
        wanted = [each for each in found.values() if _may_start(each, records.now, longest_s)]
        if not wanted:
            return
        nodes = {node.node_id: node for node in await records.nodes()}
        pools = await records.pools()
        slots = [
            slot
            for each in wanted
            if (slot := _slot(each, nodes, pools)) is not None and only in (None, each.instance_id)
        ]
        wave = evacuation.select(slots, await records.starting(), self._policy.limits)
        chosen.extend(wave.start)
        for instance_id in wave.start:
            instance = found[instance_id]
            if instance.reserved_node_id is not None:
                await self._start_new(records, instance, nodes[instance.reserved_node_id], pools)
            else:
                await self._start_again(records, instance, pools)

    async def _start_new(
        self, records: Records, instance: Instance, node: NodeView, pools: Mapping[str, PoolSource]
    ) -> None:
        epoch = 1 if instance.claim is None else instance.claim.epoch + 1
        why = f"placed on {node.name} under epoch {epoch}"
        to = StatusChange(
            phase=Phase.STARTING,
            why=why,
            attempts=instance.attempts,
            node_id=node.node_id,
            epoch=epoch,
            run=1,
        )
        if not await records.change(instance, to):
            return
        claim = await records.assign(instance, node)
        await records.unbook([instance.instance_id])
        await records.move_items(
            instance.instance_id,
            ItemChange(
                on=On.LAUNCHED,
                reason=why,
                target_node_id=node.node_id,
                target_epoch=epoch,
                attempts=instance.attempts,
            ),
        )
        await self._send_start(records, instance, claim, node.gen, pools)
        await records.emit(
            events.InstancePlaced(
                instance_id=instance.instance_id,
                instance=instance.name,
                why=instance.reason,
                node_id=node.node_id,
                node=node.name,
                epoch=epoch,
                run=1,
            )
        )
        self._log.info("instance placed", instance=instance.name, node=node.name, epoch=epoch)

    async def _start_again(
        self, records: Records, instance: Instance, pools: Mapping[str, PoolSource]
    ) -> None:
        claim, gen = instance.claim, instance.node_gen
        assert claim is not None, "only an owner can start an instance again"
        assert gen is not None, "a start goes to a node that is up"
        to = StatusChange(
            phase=Phase.STARTING,
            why=f"started again on {claim.node}: {instance.reason}",
            attempts=instance.attempts,
            node_id=claim.node_id,
            epoch=claim.epoch,
            run=claim.run + 1,
        )
        if not await records.change(instance, to):
            return
        raised = await records.next_run(instance)
        if raised is None:
            raise Conflict(
                "the run was raised by another replica", instance_id=instance.instance_id
            )
        await self._send_start(records, instance, raised, gen, pools)
        self._log.info(
            "instance started again", instance=instance.name, node=claim.node, run=raised.run
        )

    async def _send_start(
        self,
        records: Records,
        instance: Instance,
        claim: Claim,
        gen: Gen,
        pools: Mapping[str, PoolSource],
        times: int = 1,
    ) -> None:
        deadline = _later(records.now, self._policy.command_deadline_s)
        message = orders.start(
            instance,
            claim,
            gen,
            command_id=records.new_id(),
            issued_at=records.now,
            deadline=deadline,
            pools=pools,
        )
        await records.answered(instance.instance_id, ("start",))
        await records.send(
            message, deadline=deadline, times=times, next_at=self._resend_at(records.now, times)
        )

    def _resend_at(self, now: datetime, times: int) -> datetime:
        policy = self._policy
        pause_s = backoff.doubling_s(times, min_s=policy.resend_min_s, max_s=policy.resend_max_s)
        return _later(now, pause_s)

    # 4. commands without an answer

    async def resend(self, records: Records) -> None:
        if await records.distrust():
            return
        unanswered = [
            (each, row.do)
            for each in await records.attention()
            if (row := life.decide(each)).do in (Do.SEND_START, Do.SEND_STOP)
            and not (row.do is Do.SEND_START and life.held(each))
        ]
        if not unanswered:
            return
        kept = await records.kept([each.instance_id for each, _ in unanswered])
        pools = await records.pools()
        for instance, do in unanswered:
            await self._resend_one(records, instance, do, kept, pools)

    async def _resend_one(
        self,
        records: Records,
        instance: Instance,
        do: Do,
        kept: Mapping[tuple[str, str, int, int], Kept],
        pools: Mapping[str, PoolSource],
    ) -> None:
        claim, gen = instance.claim, instance.node_gen
        assert claim is not None, "only an owner's commands are sent again"
        assert gen is not None, "a command goes to a node in a session"
        verb, run = ("start", claim.run) if do is Do.SEND_START else ("stop", 0)
        before = kept.get((instance.instance_id, verb, claim.epoch, run))
        choice = sending.choose(
            before.sent if before else None,
            gen=gen,
            now=records.now,
            longest_s=self._policy.resend_max_s,
        )
        if choice.send is sending.Send.WAIT:
            return
        times = before.sent.times + 1 if before is not None and before.sent.gen == gen else 1
        if choice.send is sending.Send.AGAIN and before is not None:
            next_at = self._resend_at(records.now, times)
            if before.sent.deadline is not None:
                next_at = min(next_at, before.sent.deadline)  # then it is refused: send another
            await records.send_again(before, next_at=next_at)
        elif do is Do.SEND_STOP:
            grace_s = 0.0 if instance.wanted else self._policy.stop_grace_s
            message = orders.stop(
                instance.instance_id, claim, gen, command_id=records.new_id(), grace_s=grace_s
            )
            await records.send(
                message, deadline=None, times=times, next_at=self._resend_at(records.now, times)
            )
        elif instance.manifest is not None and not orders.missing_pool(instance.manifest, pools):
            await self._send_start(records, instance, claim, gen, pools, times)
        self._log.info(
            "command sent", instance=instance.name, node=claim.node, command=verb, why=choice.why
        )


def _may_start(instance: Instance, now: datetime, longest_s: float) -> bool:
    """Booked and waiting for its wave, or due again on its owner."""
    if life.held(instance):
        return False
    do = life.decide(instance).do
    if do in (Do.PLACE, Do.RECOVER):
        return instance.reserved_node_id is not None and instance.phase is Phase.PENDING
    return do is Do.START_AGAIN and backoff.due(instance.next_at, now, longest_s=longest_s)


def _slot(
    instance: Instance, nodes: Mapping[str, NodeView], pools: Mapping[str, PoolSource]
) -> evacuation.Slot | None:
    """Where it would start. None: not now (the target left up, a pool of it is gone).

    A degraded node receives nothing new; what it owns may be started there again.
    """
    claim, manifest = instance.claim, instance.manifest
    node_id = instance.reserved_node_id or (claim.node_id if claim else None)
    node = nodes.get(node_id) if node_id else None
    if node is None or manifest is None:
        return None
    again = instance.reserved_node_id is None and node.state is NodeState.DEGRADED
    if node.state is not NodeState.UP and not again:
        return None
    if orders.missing_pool(manifest, pools) is not None:
        return None
    return evacuation.Slot(
        instance_id=instance.instance_id,
        node_id=node.node_id,
        pools=tuple(disk.pool for disk in manifest.disks),
    )
