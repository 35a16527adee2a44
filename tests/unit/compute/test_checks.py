"""The rules for commands, for every state of a node that hypothesis can think of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from evac_common.messages.commands import InstanceSpec, Start, Stop
from evac_common.messages.reports import RefusalReason
from evac_common.model.identity import Gen
from evac_compute.core import checks, contract
from evac_compute.core.checks import InSession, Known, Present
from evac_compute.core.record import Ran, RunState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_epoch = st.integers(min_value=1, max_value=4)
_run = st.integers(min_value=1, max_value=3)
_gen = st.builds(Gen, st.integers(1, 2), st.integers(1, 2))

SESSIONS = st.none() | st.builds(InSession, gen=_gen, proven_dead=st.booleans())
RANS = st.none() | st.builds(Ran, epoch=_epoch, run=_run, state=st.sampled_from(list(RunState)))
PRESENT = st.none() | st.builds(Present, epoch=_epoch, run=_run, running=st.booleans())
KNOWN = st.builds(
    Known,
    session=SESSIONS,
    tomb=st.integers(min_value=0, max_value=4),
    ran=RANS,
    present=PRESENT,
    now=st.just(NOW),
    replayed=st.booleans(),
)


@st.composite
def starts(draw: st.DrawFn) -> Start:
    gen = draw(_gen)
    late_s = draw(st.sampled_from([-30, 30]))
    return Start(
        node_id="a" * 32,
        command_id="b" * 32,
        term=gen.term,
        incarnation=gen.incarnation,
        instance_id="c" * 32,
        epoch=draw(_epoch),
        run=draw(_run),
        deadline=NOW - timedelta(seconds=late_s),
        spec=InstanceSpec(name="web", vcpus=1, memory_mib=64),
    )


@st.composite
def stops(draw: st.DrawFn) -> Stop:
    gen = draw(_gen)
    return Stop(
        node_id="a" * 32,
        command_id="b" * 32,
        term=gen.term,
        incarnation=gen.incarnation,
        instance_id="c" * 32,
        epoch=draw(_epoch),
    )


@given(starts(), KNOWN)
def test_only_a_start_that_passes_every_check_is_executed(command: Start, known: Known) -> None:
    decision = checks.start(command, known)
    if not isinstance(decision, checks.Execute):
        return
    assert known.session is not None
    assert not known.session.proven_dead
    assert command.gen == known.session.gen
    assert command.epoch > known.tomb
    assert known.present is None or known.present.epoch == command.epoch
    assert known.present is None or not known.present.running
    assert known.now <= command.deadline
    if known.ran is not None:
        assert known.ran.epoch <= command.epoch
        if known.ran.epoch == command.epoch:
            # The only run that is taken up again is one that was begun, built and never let go.
            resumed = known.replayed and known.ran.state is RunState.BEGUN and known.present
            assert command.run > known.ran.run or resumed


@given(starts(), KNOWN)
def test_a_run_that_was_executed_is_never_executed_again(command: Start, known: Known) -> None:
    spent = (
        known.ran is not None
        and known.ran.epoch == command.epoch
        and known.ran.run >= command.run
        and known.ran.state is not RunState.BEGUN
    )
    if spent:
        assert not isinstance(checks.start(command, known), checks.Execute)


@given(starts(), KNOWN)
def test_started_is_said_only_of_what_executes_under_this_epoch(
    command: Start, known: Known
) -> None:
    decision = checks.start(command, known)
    if isinstance(decision, checks.SayStarted):
        assert known.present is not None
        assert known.present.running
        assert known.present.epoch == command.epoch
        assert decision.run == command.run


@given(starts(), KNOWN)
def test_a_release_is_said_again_only_of_the_epoch_that_was_released(
    command: Start, known: Known
) -> None:
    if isinstance(checks.start(command, known), checks.SayReleased):
        assert known.tomb == command.epoch


@given(starts(), KNOWN)
def test_every_refusal_says_why(command: Start, known: Known) -> None:
    decision = checks.start(command, known)
    assert decision.why
    if known.session is None:
        assert isinstance(decision, checks.Refuse)
        assert decision.reason is RefusalReason.NO_SESSION


@given(stops(), KNOWN)
def test_a_stop_releases_only_in_its_session_or_by_an_old_promise(
    command: Stop, known: Known
) -> None:
    decision = checks.stop(command, known)
    if isinstance(decision, checks.Release):
        in_session = known.session is not None and known.session.gen == command.gen
        promised = known.replayed and known.tomb >= command.epoch
        assert in_session or promised
        if known.tomb < command.epoch:
            assert known.present is None or known.present.epoch <= command.epoch
            assert known.ran is None or known.ran.epoch <= command.epoch


_ids = st.sampled_from(["a", "b", "c"])
_epochs = st.dictionaries(_ids, _epoch)


@given(
    _epochs,
    _epochs,
    _epochs,
    st.dictionaries(_ids, st.builds(Present, epoch=_epoch, run=_run, running=st.booleans())),
    st.booleans(),
)
def test_a_session_destroys_only_what_was_named_or_released_here(
    allowed: dict[str, int],
    superseded: dict[str, int],
    tombs: dict[str, int],
    domains: dict[str, Present],
    first: bool,
) -> None:
    plan = contract.plan(allowed, superseded, tombs, domains, first_of_term=first)
    for instance_id in plan.destroy:
        named = max(superseded.get(instance_id, 0), tombs.get(instance_id, 0))
        assert domains[instance_id].epoch <= named
    assert not set(plan.destroy) & set(plan.quarantine)
    for instance_id in set(domains) - set(plan.destroy) - set(plan.quarantine):
        assert allowed[instance_id] == domains[instance_id].epoch
    for instance_id, epoch in plan.release.items():
        assert superseded[instance_id] == epoch > tombs.get(instance_id, 0)
    for instance_id, epoch in allowed.items():
        assert (instance_id in plan.over) is (first and epoch <= tombs.get(instance_id, 0))
        assert plan.over.get(instance_id, epoch) == epoch
