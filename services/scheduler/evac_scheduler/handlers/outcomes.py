"""Carry out what an accepted report does to an instance, with everything that is owed to others."""

from __future__ import annotations

from datetime import timedelta

from evac_common.messages import events
from evac_common.messages.reports import StartErrorKind
from evac_common.model.states import ExitReason, Phase, ReleaseKind
from evac_scheduler.core import evacuation, orders, reports, sending
from evac_scheduler.core.evacuation import On
from evac_scheduler.core.facts import Claim, Instance
from evac_scheduler.core.policy import Policy
from evac_scheduler.core.reports import Outcome, Seen, Speaker
from evac_scheduler.ports import ItemChange, Records, StatusChange


class Outcomes:
    """Everything here runs on an instance that is locked and whose report was accepted."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @staticmethod
    def _seen(records: Records, instance: Instance) -> tuple[Claim, Seen]:
        claim = instance.claim
        assert claim is not None, "an accepted report has a ledger row"
        since = instance.changed_at or records.now
        return claim, Seen(
            phase=instance.phase or Phase.PENDING,
            run=claim.run,
            attempts=instance.attempts,
            phase_age_s=(records.now - since).total_seconds(),
            wanted=instance.wanted,
        )

    @staticmethod
    async def _write(records: Records, instance: Instance, outcome: Outcome) -> bool:
        if outcome.phase is None:
            return False
        owned = outcome.release is None
        claim = instance.claim
        assert claim is not None, "an accepted report has a ledger row"
        next_at = records.now + timedelta(seconds=outcome.delay_s) if outcome.delay_s else None
        return await records.change(
            instance,
            StatusChange(
                phase=outcome.phase,
                why=outcome.why,
                attempts=outcome.attempts,
                next_at=next_at,
                node_id=claim.node_id if owned else None,
                epoch=claim.epoch if owned else None,
                run=claim.run if owned else None,
                observed=True,
            ),
        )

    async def started(self, records: Records, instance: Instance, run: int) -> str:
        claim, seen = self._seen(records, instance)
        outcome = reports.started(seen, run)
        if not await self._write(records, instance, outcome):
            return outcome.why
        await records.answered(instance.instance_id, ("start",))
        moved = await records.move_items(
            instance.instance_id,
            ItemChange(
                on=On.RUNNING,
                reason=outcome.why,
                target_node_id=claim.node_id,
                target_epoch=claim.epoch,
            ),
        )
        await records.emit(
            events.InstanceStarted(
                instance_id=instance.instance_id,
                instance=instance.name,
                why=outcome.why,
                node_id=claim.node_id,
                node=claim.node,
                epoch=claim.epoch,
                run=claim.run,
            )
        )
        for item in moved:
            await records.emit(
                events.InstanceEvacuated(
                    instance_id=instance.instance_id,
                    instance=instance.name,
                    why=f"{item.node} is proven dead",
                    from_node=item.node,
                    to_node=claim.node,
                    epoch=claim.epoch,
                    took_s=evacuation.took_s(item.proven_at, records.now),
                )
            )
        return outcome.why

    async def start_failed(
        self, records: Records, instance: Instance, run: int, kind: StartErrorKind, detail: str
    ) -> str:
        _, seen = self._seen(records, instance)
        outcome = reports.start_failed(seen, run, kind, detail, self._policy.reports)
        if await self._write(records, instance, outcome):
            await records.answered(instance.instance_id, ("start",))
            await self._tell_failed(records, instance, kind, outcome)
        return outcome.why

    @staticmethod
    async def _tell_failed(
        records: Records, instance: Instance, kind: StartErrorKind, outcome: Outcome
    ) -> None:
        claim = instance.claim
        assert claim is not None, "an accepted report has a ledger row"
        await records.emit(
            events.InstanceStartFailed(
                instance_id=instance.instance_id,
                instance=instance.name,
                why=outcome.why,
                node_id=claim.node_id,
                node=claim.node,
                epoch=claim.epoch,
                kind=kind.value,
                alarm=outcome.alarm,
            )
        )

    async def exited(
        self, records: Records, instance: Instance, run: int, reason: ExitReason
    ) -> str:
        claim, seen = self._seen(records, instance)
        outcome = reports.exited(seen, run, reason, self._policy.reports)
        if await self._write(records, instance, outcome):
            await records.answered(instance.instance_id, ("start",))
            await records.emit(
                events.InstanceExited(
                    instance_id=instance.instance_id,
                    instance=instance.name,
                    why=outcome.why,
                    node_id=claim.node_id,
                    node=claim.node,
                    epoch=claim.epoch,
                    reason=reason.value,
                )
            )
        return outcome.why

    async def released(
        self,
        records: Records,
        instance: Instance,
        kind: ReleaseKind,
        detail: str,
        error: StartErrorKind | None = None,
    ) -> str:
        claim, seen = self._seen(records, instance)
        outcome = reports.released(seen, kind, detail, self._policy.reports)
        if not await self._write(records, instance, outcome):
            return outcome.why
        await records.release(instance, kind, outcome.why)
        await records.answered(instance.instance_id, ("start", "stop"))
        delay = timedelta(seconds=outcome.delay_s)
        await records.move_items(
            instance.instance_id,
            ItemChange(
                on=On.RELEASED if instance.wanted else On.UNWANTED,
                reason=outcome.why,
                attempts=outcome.attempts,
                next_at=records.now + delay if outcome.delay_s else None,
            ),
        )
        if error is not None:
            await self._tell_failed(records, instance, error, outcome)
        else:
            await records.emit(
                events.InstanceStopped(
                    instance_id=instance.instance_id,
                    instance=instance.name,
                    why=outcome.why,
                    node_id=claim.node_id,
                    node=claim.node,
                    epoch=claim.epoch,
                )
            )
        return outcome.why

    async def not_obeyed(self, records: Records, instance: Instance, *, released: bool) -> str:
        """The node refused the awaited start for good: this run is spent, or the epoch is."""
        _, seen = self._seen(records, instance)
        if seen.phase is not Phase.STARTING:
            return f"no start is awaited in phase {seen.phase.value}"
        if released:
            why = "its node has released this epoch: asked to say so"
            outcome = Outcome(phase=Phase.STOPPING, why=why, attempts=seen.attempts + 1)
        else:
            outcome = reports.start_failed(
                seen,
                seen.run,
                StartErrorKind.HYPERVISOR,
                f"run {seen.run} was executed, and nothing of it is left",
                self._policy.reports,
            )
        if await self._write(records, instance, outcome):
            await records.answered(instance.instance_id, ("start",))
        return outcome.why

    async def superseded(
        self, records: Records, instance: Instance, speaker: Speaker, epoch: int, *, running: bool
    ) -> str:
        """A domain that has a successor is ended at once, wherever it shows itself."""
        node = await records.node_name(speaker.node_id)
        assert instance.claim is not None, "an epoch with a successor has a ledger row"
        owner = f"{instance.claim.node} owns epoch {instance.claim.epoch}"
        if instance.claim.epoch == epoch:
            owner = f"{instance.claim.node} owned it, and that is over"
        why = f"{node} shows epoch {epoch}; {owner}"
        about = (instance.instance_id, speaker.node_id, epoch)
        name = events.DoubleRunSuspected.name
        if running and about not in await records.announced(name, [instance.instance_id]):
            await records.emit(
                events.DoubleRunSuspected(
                    instance_id=instance.instance_id,
                    instance=instance.name,
                    why=why,
                    node_id=speaker.node_id,
                    node=node,
                    epoch=epoch,
                )
            )
        kept = await records.kept([instance.instance_id])
        before = kept.get((instance.instance_id, "destroy", epoch, 0))
        choice = sending.choose(
            before.sent if before else None,
            gen=speaker.gen,
            now=records.now,
            longest_s=self._policy.resend_max_s,
        )
        pause = timedelta(seconds=self._policy.resend_min_s)
        if choice.send is sending.Send.AGAIN and before is not None:
            await records.send_again(before, next_at=records.now + pause)
        elif choice.send is not sending.Send.WAIT:
            command = orders.destroy(
                instance.instance_id,
                epoch,
                speaker.node_id,
                speaker.gen,
                command_id=records.new_id(),
            )
            await records.send(command, deadline=None, times=1, next_at=records.now + pause)
        return why

    @staticmethod
    async def unknown(
        records: Records, instance_id: str, name: str, speaker: Speaker, epoch: int, why: str
    ) -> None:
        """Left running and announced once: nothing is destroyed for want of knowledge."""
        about = (instance_id, speaker.node_id, epoch)
        if about in await records.announced(events.InstanceQuarantined.name, [instance_id]):
            return
        await records.emit(
            events.InstanceQuarantined(
                instance_id=instance_id,
                instance=name,
                why=why,
                node_id=speaker.node_id,
                node=await records.node_name(speaker.node_id),
                epoch=epoch,
            )
        )
