from __future__ import annotations

from dataclasses import replace

import pytest

from evac_common.messages.reports import StartErrorKind
from evac_common.model.identity import Gen
from evac_common.model.states import ExitReason, NodeState, Phase, ReleaseKind
from evac_scheduler.core import backoff, reports
from evac_scheduler.core.facts import Claim
from evac_scheduler.core.reports import Judgement, Policy, Seen, Speaker, Standing

GEN = Gen(3, 7)
SPEAKER = Speaker(node_id="n1", state=NodeState.UP, gen=GEN)
CLAIM = Claim(epoch=4, node_id="n1", node="n1", incarnation=7, run=2)
POLICY = Policy()


def _judge(
    speaker: Speaker | None = SPEAKER,
    gen: Gen = GEN,
    epoch: int = 4,
    claim: Claim | None = CLAIM,
    *,
    released: bool = False,
    dead: bool = False,
) -> Judgement:
    return reports.judge(speaker, gen, epoch, claim, released=released, dead=dead)


def test_the_owner_in_its_session_is_believed() -> None:
    assert _judge().accepted


@pytest.mark.parametrize("state", [state for state in NodeState if state is not NodeState.FENCED])
def test_the_owner_is_believed_in_every_state_but_fenced(state: NodeState) -> None:
    assert _judge(replace(SPEAKER, state=state)).accepted


@pytest.mark.parametrize(
    ("judgement", "standing"),
    [
        (_judge(None), Standing.IGNORED),
        (_judge(replace(SPEAKER, state=NodeState.FENCED)), Standing.IGNORED),
        (_judge(gen=Gen(2, 7)), Standing.IGNORED),
        (_judge(gen=Gen(3, 6)), Standing.IGNORED),
        (_judge(released=True), Standing.IGNORED),
        (_judge(dead=True), Standing.IGNORED),
        (_judge(claim=replace(CLAIM, incarnation=6)), Standing.IGNORED),
        (_judge(claim=None), Standing.UNKNOWN),
        (_judge(epoch=5), Standing.UNKNOWN),
        (_judge(claim=replace(CLAIM, node_id="n2", node="n2")), Standing.UNKNOWN),
        (_judge(claim=replace(CLAIM, node_id="n2"), released=True), Standing.SUPERSEDED),
        (_judge(claim=replace(CLAIM, node_id="n2"), dead=True), Standing.SUPERSEDED),
        (_judge(epoch=3), Standing.SUPERSEDED),
        (_judge(epoch=3, claim=replace(CLAIM, node_id="n2", node="n2")), Standing.SUPERSEDED),
    ],
)
def test_everything_else_changes_nothing(judgement: Judgement, standing: Standing) -> None:
    assert judgement.standing is standing
    assert judgement.why


def _seen(phase: Phase = Phase.STARTING, *, attempts: int = 0, age_s: float = 1.0) -> Seen:
    return Seen(phase=phase, run=2, attempts=attempts, phase_age_s=age_s, wanted=True)


def test_started_needs_an_awaited_start_of_the_present_run() -> None:
    assert reports.started(_seen(), 2).phase is Phase.RUNNING
    assert reports.started(_seen(), 1).phase is None
    for phase in Phase:
        if phase is not Phase.STARTING:
            assert reports.started(_seen(phase), 2).phase is None


def test_a_failed_start_is_repeated_here_and_after_three_elsewhere() -> None:
    outcomes = [
        reports.start_failed(_seen(attempts=attempts), 2, StartErrorKind.HYPERVISOR, "away", POLICY)
        for attempts in range(3)
    ]

    assert [each.phase for each in outcomes] == [Phase.PENDING, Phase.PENDING, Phase.STOPPING]
    assert [each.delay_s for each in outcomes[:2]] == [2.0, 4.0]
    assert outcomes[2].give_up


def test_a_locked_image_is_never_started_elsewhere_and_alarms_every_two_minutes() -> None:
    outcomes = [
        reports.start_failed(
            _seen(attempts=attempts), 2, StartErrorKind.STORAGE_LOCKED, "lock held", POLICY
        )
        for attempts in range(36)
    ]

    assert {each.phase for each in outcomes} == {Phase.PENDING}
    assert not any(each.give_up for each in outcomes)
    assert [number for number, each in enumerate(outcomes, 1) if each.alarm] == [12, 24, 36]


def test_a_crash_is_restarted_at_once_and_a_crash_loop_more_and_more_slowly() -> None:
    delays = [
        reports.exited(
            _seen(Phase.RUNNING, attempts=attempts), 2, ExitReason.CRASHED, POLICY
        ).delay_s
        for attempts in range(8)
    ]

    assert delays == [0.0, 10.0, 40.0, 90.0, 160.0, 250.0, 300.0, 300.0]


def test_a_guest_that_ran_long_is_restarted_at_once_again() -> None:
    seen = _seen(Phase.RUNNING, attempts=6, age_s=POLICY.stable_s)

    outcome = reports.exited(seen, 2, ExitReason.CRASHED, POLICY)

    assert (outcome.delay_s, outcome.attempts) == (0.0, 1)


def test_an_end_of_an_earlier_run_says_nothing_about_this_one() -> None:
    assert reports.exited(_seen(Phase.RUNNING), 1, ExitReason.CRASHED, POLICY).phase is None


@pytest.mark.parametrize("phase", list(Phase))
def test_a_release_counts_in_every_phase(phase: Phase) -> None:
    outcome = reports.released(_seen(phase), ReleaseKind.STOPPED, "", POLICY)
    halted = reports.released(replace(_seen(phase), wanted=False), ReleaseKind.STOPPED, "", POLICY)

    assert (outcome.phase, outcome.release) == (Phase.PENDING, ReleaseKind.STOPPED)
    assert (halted.phase, halted.release) == (Phase.STOPPED, ReleaseKind.STOPPED)


def test_a_refused_start_is_placed_again_after_a_pause() -> None:
    outcome = reports.released(
        _seen(attempts=4), ReleaseKind.START_REFUSED, "capacity: full", POLICY
    )

    assert (outcome.phase, outcome.attempts, outcome.delay_s) == (Phase.PENDING, 5, 32.0)


def test_pauses_grow_to_their_limit_and_never_overflow() -> None:
    assert [backoff.doubling_s(n, min_s=2, max_s=60) for n in (0, 1, 2, 5, 6, 10**9)] == [
        2.0,
        2.0,
        4.0,
        32.0,
        60.0,
        60.0,
    ]
