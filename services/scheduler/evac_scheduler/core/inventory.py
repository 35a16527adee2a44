"""What an inventory says that no report has said: each difference as a finding with its reason.

A look may be older than a report that came before it, so an absence alone says nothing: a run is
over when the node names it as ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from evac_common.messages.reports import DomainSeen
from evac_common.model.identity import Gen
from evac_common.model.states import Phase
from evac_scheduler.core.facts import Claim, Instance, Owner
from evac_scheduler.core.reports import Judgement, Speaker, Standing, judge


class Found(StrEnum):
    AS_EXPECTED = "as expected"
    STARTED = "started"  # its `started` was lost
    EXITED = "exited"  # its `exited` was lost, or nobody saw it end
    RELEASED = "released"  # its `stopped` was lost
    SUPERSEDED = "superseded"  # a domain of an epoch that has a successor
    UNKNOWN = "unknown"  # a domain that the ledger does not know


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    instance_id: str
    found: Found
    epoch: int
    run: int
    running: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Doubt:
    """A run that one look did not show."""

    instance_id: str
    epoch: int
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    speaker: Speaker | None
    gen: Gen
    domains: Sequence[DomainSeen]
    exited: Sequence[DomainSeen]
    released: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    findings: tuple[Finding, ...]
    doubts: frozenset[Doubt]  # to be given to the next comparison


def compare(
    look: Look,
    known: Mapping[str, Instance],
    doubted: frozenset[Doubt],
) -> Comparison:
    """`doubted`: of the look before."""
    findings: dict[str, Finding] = {}
    for instance_id, tomb in sorted(look.released.items()):
        claim = _accepted_claim(look, known.get(instance_id))
        if claim is not None and claim.epoch <= tomb:
            why = f"epoch {tomb} has a tombstone on the node"
            findings[instance_id] = _finding(
                instance_id, Found.RELEASED, claim.epoch, claim.run, why
            )
    for domain in sorted(look.domains, key=lambda seen: seen.instance_id):
        found = _of_domain(look, domain, known.get(domain.instance_id))
        if found is not None:
            findings.setdefault(domain.instance_id, found)
    doubts: set[Doubt] = set()
    shown = {domain.instance_id for domain in look.domains}
    # A node names every run that it began and that is over, until the epoch has a tombstone; what
    # it does not name at all began after the look.
    ended = {each.instance_id: each for each in look.exited}
    for instance_id in sorted(ended.keys() - shown - set(findings)):
        instance = known.get(instance_id)
        claim = _accepted_claim(look, instance)
        if claim is None or instance is None:
            continue
        doubt = Doubt(instance_id=instance_id, epoch=claim.epoch, run=claim.run)
        end = ended[instance_id]
        if (end.epoch, end.run) < (claim.epoch, claim.run):
            continue  # the look is older than this run, so it cannot miss it
        said = (end.epoch, end.run) == (claim.epoch, claim.run)
        if not (instance.phase is Phase.RUNNING or (said and instance.phase is Phase.STARTING)):
            continue
        if doubt in doubted or (said and instance.phase is Phase.RUNNING):
            why = "its node has no domain of it any more"
            findings[instance_id] = _finding(instance_id, Found.EXITED, claim.epoch, claim.run, why)
        else:
            doubts.add(doubt)
    ordered = tuple(findings[instance_id] for instance_id in sorted(findings))
    return Comparison(findings=ordered, doubts=frozenset(doubts))


def _finding(instance_id: str, found: Found, epoch: int, run: int, why: str) -> Finding:
    return Finding(
        instance_id=instance_id, found=found, epoch=epoch, run=run, running=False, why=why
    )


def judged(look: Look, instance: Instance | None, epoch: int) -> Judgement:
    return judge(
        look.speaker,
        look.gen,
        epoch,
        instance.claim if instance else None,
        released=instance is not None and instance.release_id is not None,
        dead=instance is not None and instance.owner is Owner.DEAD,
    )


def _accepted_claim(look: Look, instance: Instance | None) -> Claim | None:
    if instance is None or instance.claim is None:
        return None
    return instance.claim if judged(look, instance, instance.claim.epoch).accepted else None


def _of_domain(look: Look, domain: DomainSeen, instance: Instance | None) -> Finding | None:
    judgement = judged(look, instance, domain.epoch)
    found: Found | None = None
    why = judgement.why
    match judgement.standing:
        case Standing.SUPERSEDED:
            found = Found.SUPERSEDED
        case Standing.UNKNOWN:
            found = Found.UNKNOWN
        case Standing.ACCEPTED if domain.running and instance is not None:
            assert instance.claim is not None, "an accepted report has a ledger row"
            same_run = domain.run == instance.claim.run
            if same_run and instance.phase is Phase.STARTING:
                found, why = Found.STARTED, "its node shows it running"
            elif same_run and instance.phase is Phase.RUNNING:
                found, why = Found.AS_EXPECTED, "its node shows it running"
        case _:
            pass
    if found is None:
        return None
    return Finding(
        instance_id=domain.instance_id,
        found=found,
        epoch=domain.epoch,
        run=domain.run,
        running=domain.running,
        why=why,
    )
