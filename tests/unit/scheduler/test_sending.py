from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evac_common.messages.reports import DomainSeen
from evac_common.model.identity import Gen
from evac_common.model.manifest import InstanceManifest
from evac_common.model.states import NodeState, Phase, PoolKind
from evac_scheduler.core import orders, sending
from evac_scheduler.core.facts import Claim, Instance
from evac_scheduler.core.inventory import Doubt, Found, Look, compare
from evac_scheduler.core.orders import PoolSource
from evac_scheduler.core.reports import Speaker
from evac_scheduler.core.sending import Send, Sent

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GEN = Gen(1, 4)
WEB = "a" * 32


def _at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("gen", "deadline_s", "next_s", "send"),
    [
        (GEN, 60, 5, Send.WAIT),
        (GEN, 60, 0, Send.AGAIN),
        (GEN, None, 0, Send.AGAIN),
        (GEN, 0, 0, Send.ANEW),
        (GEN, 0, 5, Send.WAIT),  # refused: not at once again
        (GEN, 660, 660, Send.AGAIN),  # our clock was set back since
        (Gen(1, 3), 60, 5, Send.ANEW),
        (Gen(0, 4), 60, 5, Send.ANEW),
    ],
)
def test_a_command_is_repeated_unchanged_while_it_can_be_obeyed(
    gen: Gen, deadline_s: float | None, next_s: float, send: Send
) -> None:
    sent = Sent(
        command_id="c",
        node_id="n",
        gen=gen,
        deadline=None if deadline_s is None else _at(deadline_s),
        times=1,
        next_at=_at(next_s),
    )

    assert sending.choose(sent, gen=GEN, now=NOW, longest_s=60.0).send is send


def test_a_command_that_was_never_sent_is_sent() -> None:
    assert sending.choose(None, gen=GEN, now=NOW, longest_s=60.0).send is Send.ANEW


def test_a_start_carries_everything_the_node_needs_resolved() -> None:
    manifest = InstanceManifest.model_validate(
        {
            "vcpus": 2,
            "memory_mib": 512,
            "disks": [{"pool": "shared"}, {"pool": "shared", "volume": "data.raw"}],
            "nics": [{"bridge": "br0"}, {"bridge": "br0", "mac": "52:54:00:00:00:01"}],
        }
    )
    pools = {
        "shared": PoolSource(
            name="shared", kind=PoolKind.NFS, source="/srv/vm", nodes=frozenset({"n"})
        )
    }

    spec = orders.spec_of(WEB, "web-1", manifest, pools)

    assert [(disk.source, disk.volume) for disk in spec.disks] == [
        ("/srv/vm", "web-1-0.raw"),
        ("/srv/vm", "data.raw"),
    ]
    assert spec.nics[0].mac == orders.mac_of(WEB, 0) != orders.mac_of(WEB, 1)
    assert spec.nics[1].mac == "52:54:00:00:00:01"
    assert orders.missing_pool(manifest, {}) == "shared"


def _instance(phase: Phase) -> Instance:
    return Instance(
        instance_id=WEB,
        name="web-1",
        wanted=True,
        manifest=None,
        phase=phase,
        attempts=0,
        next_at=None,
        reason="",
        changed_at=None,
        seen_epoch=3,
        seen_run=2,
        claim=Claim(epoch=3, node_id="n1", node="n1", incarnation=4, run=2),
        release_id=None,
        proof=None,
        node_state=NodeState.UP,
        node_gen=GEN,
        reserved_node_id=None,
    )


def _look(*domains: DomainSeen, exited: tuple[DomainSeen, ...] = ()) -> Look:
    speaker = Speaker(node_id="n1", state=NodeState.UP, gen=GEN)
    return Look(speaker=speaker, gen=GEN, domains=domains, exited=exited, released={})


def _seen(*, epoch: int = 3, run: int = 2, running: bool = True) -> DomainSeen:
    return DomainSeen(instance_id=WEB, epoch=epoch, run=run, running=running)


def test_an_end_during_a_start_is_believed_at_the_second_look() -> None:
    known = {WEB: _instance(Phase.STARTING)}
    look = _look(exited=(_seen(running=False),))

    first = compare(look, known, frozenset())
    second = compare(look, known, first.doubts)

    assert first.findings == ()
    assert first.doubts == {Doubt(instance_id=WEB, epoch=3, run=2)}
    assert [finding.found for finding in second.findings] == [Found.EXITED]


def test_a_start_that_the_node_has_not_seen_yet_is_no_finding() -> None:
    known = {WEB: _instance(Phase.STARTING)}

    for look in (_look(), _look(exited=(_seen(run=1, running=False),))):
        comparison = compare(look, known, frozenset())
        assert (comparison.findings, comparison.doubts) == ((), frozenset())


def test_looks_from_before_a_restart_do_not_end_it_however_many_come_late() -> None:
    """While the database was away they waited in the queue; the restart's report overtook them."""
    known = {WEB: _instance(Phase.RUNNING)}
    old = _look(exited=(_seen(run=1, running=False),))

    first = compare(old, known, frozenset())
    second = compare(old, known, first.doubts)

    assert (first.findings, first.doubts, second.findings) == ((), frozenset(), ())


def test_a_domain_that_exists_and_does_not_execute_is_not_missing() -> None:
    known = {WEB: _instance(Phase.RUNNING)}

    comparison = compare(_look(_seen(running=False)), known, frozenset())

    assert (comparison.findings, comparison.doubts) == ((), frozenset())


def test_another_run_of_the_same_epoch_does_not_confirm_a_start() -> None:
    known = {WEB: _instance(Phase.STARTING)}

    assert compare(_look(_seen(run=1)), known, frozenset()).findings == ()
