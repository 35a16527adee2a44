"""Reports: judged by the core, applied in one transaction, then acknowledged.

A report that is not the owner's, or not of its session, is logged and acknowledged: repeating it
would change nothing. While the database is away it comes again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog
from prometheus_client import Counter

from evac_common.bus.port import Verdict
from evac_common.errors import Conflict, StoreUnavailable
from evac_common.messages import reports as wire
from evac_common.messages.codec import Envelope
from evac_common.messages.commands import Start
from evac_common.messages.events import Event
from evac_common.model.identity import Gen
from evac_common.model.states import ExitReason, ReleaseKind
from evac_common.service.periodic import Wake
from evac_scheduler.core.facts import Instance, Owner
from evac_scheduler.core.inventory import Comparison, Doubt, Finding, Found, Look, compare, judged
from evac_scheduler.core.policy import Policy
from evac_scheduler.core.reports import Speaker, Standing, judge, session
from evac_scheduler.handlers.outcomes import Outcomes
from evac_scheduler.ports import Database, Records, Shown

REPORTS = Counter(
    "evac_scheduler_reports_total", "Reports, by what they were worth.", ["name", "standing"]
)

#: Refusals that spend the run, or the epoch.
_SPENDS = (
    wire.RefusalReason.OLD_EPOCH,
    wire.RefusalReason.OLD_RUN,
    wire.RefusalReason.DEADLINE,
)

Apply = Callable[[Records, Instance], Awaitable[str]]


class Reports:
    def __init__(self, database: Database, policy: Policy, wake: Wake) -> None:
        self._database = database
        self._policy = policy
        self._wake = wake
        self._outcomes = Outcomes(policy)
        self._doubts: dict[str, tuple[Gen, int, frozenset[Doubt]]] = {}  # node → last look
        self._taken: dict[str, Gen] = {}  # node → session of the newest inventory that is recorded
        self._absent: dict[str, tuple[Gen, int, frozenset[str]]] = {}  # shown before, not then
        self._log = structlog.get_logger()

    async def nudge(self, envelope: Envelope, event: Event) -> Verdict:
        """An event carries nothing here: the sweep re-reads the rows."""
        self._wake.set()
        return Verdict.ACK

    async def started(self, envelope: Envelope, report: wire.Started) -> Verdict:
        return await self._about(
            report, lambda records, instance: self._outcomes.started(records, instance, report.run)
        )

    async def start_failed(self, envelope: Envelope, report: wire.StartFailed) -> Verdict:
        return await self._about(
            report,
            lambda records, instance: self._outcomes.start_failed(
                records, instance, report.run, report.kind, report.detail
            ),
        )

    async def start_refused(self, envelope: Envelope, report: wire.StartRefused) -> Verdict:
        detail = f"{report.kind.value}: {report.detail}" if report.detail else report.kind.value
        return await self._about(
            report,
            lambda records, instance: self._outcomes.released(
                records, instance, ReleaseKind.START_REFUSED, detail, report.kind
            ),
        )

    async def stopped(self, envelope: Envelope, report: wire.Stopped) -> Verdict:
        commanded = report.reason is wire.StopReason.COMMANDED
        detail = "" if commanded else report.reason.value
        return await self._about(
            report,
            lambda records, instance: self._outcomes.released(
                records, instance, ReleaseKind.STOPPED, detail
            ),
        )

    async def exited(self, envelope: Envelope, report: wire.Exited) -> Verdict:
        return await self._about(
            report,
            lambda records, instance: self._outcomes.exited(
                records, instance, report.run, report.reason
            ),
        )

    async def _about(self, report: wire.OfInstance, apply: Apply) -> Verdict:
        async def step(records: Records) -> None:
            speaker = await records.speaker(report.node_id)
            found = await records.locked([report.instance_id])
            instance = found.get(report.instance_id)
            judgement = judge(
                speaker,
                report.gen,
                report.epoch,
                instance.claim if instance else None,
                released=instance is not None and instance.release_id is not None,
                dead=instance is not None and instance.owner is Owner.DEAD,
            )
            why = judgement.why
            if instance is not None and speaker is not None:
                if judgement.accepted:
                    why = await apply(records, instance)
                elif judgement.standing is Standing.SUPERSEDED and isinstance(report, wire.Started):
                    distrust = await records.distrust()
                    why = f"left as it is: {distrust}"
                    if not distrust:
                        why = await self._outcomes.superseded(
                            records, instance, speaker, report.epoch, running=True
                        )
            self._say(report, judgement.standing, why, report.instance_id)

        return await self._settle(report, step)

    async def destroyed(self, envelope: Envelope, report: wire.Destroyed) -> Verdict:
        async def step(records: Records) -> None:
            judgement = session(await records.speaker(report.node_id), report.gen)
            if judgement.accepted:
                await records.answered(report.instance_id, ("destroy",))
            self._say(report, judgement.standing, judgement.why, report.instance_id)

        return await self._settle(report, step)

    async def command_refused(self, envelope: Envelope, report: wire.CommandRefused) -> Verdict:
        async def step(records: Records) -> None:
            pause = timedelta(seconds=self._policy.resend_min_s)
            awaited = await records.refused(
                report.command_id, node_id=report.node_id, next_at=records.now + pause
            )
            why = f"{report.verb} refused ({report.reason.value}): {report.detail}"
            if awaited and report.verb == Start.name and report.instance_id and report.epoch:
                why = await self._spent(records, report, why)
            standing = Standing.ACCEPTED if awaited else Standing.IGNORED
            self._say(report, standing, why, report.instance_id)

        return await self._settle(report, step)

    async def _spent(self, records: Records, report: wire.CommandRefused, why: str) -> str:
        """Refusals that repeating the start will not change, or not surely."""
        if report.reason not in _SPENDS:
            return why
        speaker = await records.speaker(report.node_id)
        instance = (await records.locked([str(report.instance_id)])).get(str(report.instance_id))
        if speaker is None or instance is None or speaker.gen.incarnation != report.incarnation:
            return why
        judgement = judge(
            speaker,
            speaker.gen,
            report.epoch or 0,
            instance.claim,
            released=instance.release_id is not None,
            dead=instance.owner is Owner.DEAD,
        )
        if not judgement.accepted:
            return judgement.why
        if report.reason is wire.RefusalReason.DEADLINE:
            # Repeated for ever on this node it might never be in time. It counts as a failed start,
            # so that in the end the owner is asked for the release and another node gets its turn.
            run, detail = instance.claim.run if instance.claim else 0, f"refused, {report.detail}"
            kind = wire.StartErrorKind.HYPERVISOR
            return await self._outcomes.start_failed(records, instance, run, kind, detail)
        released = report.reason is wire.RefusalReason.OLD_EPOCH
        return await self._outcomes.not_obeyed(records, instance, released=released)

    # inventories

    async def inventory(self, envelope: Envelope, report: wire.Inventory) -> Verdict:
        """Everything that lost reports would have said. Locks only what differs from the rows."""
        differs = accepted = False

        async def step(records: Records) -> None:
            nonlocal differs, accepted
            speaker = await records.speaker(report.node_id)
            look = Look(
                speaker=speaker,
                gen=report.gen,
                domains=report.domains,
                exited=report.exited,
                released=report.released,
            )
            judgement = session(speaker, report.gen)
            if speaker is None or not judgement.accepted:
                self._say(report, judgement.standing, judgement.why, None)
                return
            comparison, known = await self._compare(records, look, report, speaker)
            distrust = await records.distrust()
            everything = bool(distrust)  # the ledger's own word is not believed either
            await self._remember(records, report, look, known, everything=everything)
            accepted = True
            fine = [
                finding.instance_id
                for finding in comparison.findings
                if finding.found is Found.AS_EXPECTED
            ]
            await records.observed(fine)
            differs = len(fine) < len(comparison.findings)
            await self._apply(records, look, speaker, comparison, known, distrust)

        verdict = await self._settle(report, step, news=lambda: differs)
        if verdict is Verdict.ACK and accepted:
            self._taken[report.node_id] = report.gen
        return verdict

    async def _compare(
        self, records: Records, look: Look, report: wire.Inventory, speaker: Speaker
    ) -> tuple[Comparison, dict[str, Instance]]:
        named = {seen.instance_id for seen in (*report.domains, *report.exited)}
        known = await records.known({*named, *report.released})
        gen, sequence, doubts = self._doubts.get(report.node_id, (speaker.gen, 0, frozenset()))
        if gen != report.gen or sequence == report.sequence:
            doubts = frozenset()  # another session, or the same look once more
        comparison = compare(look, known, doubts)
        self._doubts[report.node_id] = (report.gen, report.sequence, comparison.doubts)
        return comparison, known

    async def _remember(
        self,
        records: Records,
        report: wire.Inventory,
        look: Look,
        known: dict[str, Instance],
        *,
        everything: bool,
    ) -> None:
        """Keep what the ledger does not explain; all of it while the ledger is not believed."""
        speaker = look.speaker
        assert speaker is not None, "the session was judged before"
        shown = []
        for domain in report.domains:
            judgement = judged(look, known.get(domain.instance_id), domain.epoch)
            explained = judgement.standing is not Standing.UNKNOWN
            if everything or not explained:
                shown.append(
                    Shown(
                        instance_id=domain.instance_id,
                        epoch=domain.epoch,
                        run=domain.run,
                        running=domain.running,
                        explained=explained,
                    )
                )
        present = {domain.instance_id for domain in report.domains}
        settled = present - {each.instance_id for each in shown}
        remembered = await records.remembered(report.node_id)
        absent = remembered.keys() - present
        before, sequence, missed = self._absent.get(report.node_id, (report.gen, 0, frozenset()))
        # As with every absence: one look may leave out what has just been touched.
        twice = absent & missed if before == report.gen and sequence != report.sequence else set()
        self._absent[report.node_id] = (report.gen, report.sequence, frozenset(absent))
        await records.show(speaker, shown, before=remembered, gone=settled | twice)
        if self._taken.get(report.node_id) != report.gen:
            await records.taken(speaker)

    async def _apply(
        self,
        records: Records,
        look: Look,
        speaker: Speaker,
        comparison: Comparison,
        known: dict[str, Instance],
        distrust: str,
    ) -> None:
        differing = [each for each in comparison.findings if each.found is not Found.AS_EXPECTED]
        locked = await records.locked(
            [each.instance_id for each in differing if each.found is not Found.UNKNOWN]
        )
        for finding in differing:
            instance = locked.get(finding.instance_id)
            why = finding.why
            if distrust and finding.found in (Found.UNKNOWN, Found.SUPERSEDED):
                why = f"left as it is: {distrust}"
            elif finding.found is Found.UNKNOWN:
                before = known.get(finding.instance_id)
                name = before.name if before else finding.instance_id
                await self._outcomes.unknown(
                    records, finding.instance_id, name, speaker, finding.epoch, why
                )
            elif finding.found is Found.SUPERSEDED and instance is not None:
                why = await self._outcomes.superseded(
                    records, instance, speaker, finding.epoch, running=finding.running
                )
            elif instance is not None and judged(look, instance, finding.epoch).accepted:
                why = await self._catch_up(records, instance, finding)
            self._log.info(
                "inventory differs",
                node_id=speaker.node_id,
                instance_id=finding.instance_id,
                epoch=finding.epoch,
                state=finding.found.value,
                why=why,
            )

    async def _catch_up(self, records: Records, instance: Instance, finding: Finding) -> str:
        match finding.found:
            case Found.STARTED:
                return await self._outcomes.started(records, instance, finding.run)
            case Found.EXITED:
                return await self._outcomes.exited(records, instance, finding.run, ExitReason.LOST)
            case Found.RELEASED:
                return await self._outcomes.released(records, instance, ReleaseKind.STOPPED, "")
            case _:
                return finding.why

    # all of them

    def _say(
        self, report: wire.Report, standing: Standing, why: str, instance_id: str | None
    ) -> None:
        REPORTS.labels(report.name, standing.name.lower()).inc()
        log = self._log.info if standing is Standing.ACCEPTED else self._log.warning
        log(
            "report",
            message_type=report.name,
            node_id=report.node_id,
            instance_id=instance_id,
            state=standing.name.lower(),
            why=why,
        )

    async def _settle(
        self,
        report: wire.Report,
        step: Callable[[Records], Awaitable[None]],
        news: Callable[[], bool] = lambda: True,
    ) -> Verdict:
        try:
            async with self._database.transaction() as records:
                await step(records)
        except (StoreUnavailable, Conflict) as error:
            # The loops say once that the database is away; messages come by the hundred.
            self._log.debug("report waits", message_type=report.name, why=str(error))
            return Verdict.RETRY
        if news():
            self._wake.set()
        return Verdict.ACK
