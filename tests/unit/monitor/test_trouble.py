"""What counts as a trouble, from when, and until when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac_common.model.states import NodeState, Trouble
from evac_monitor.core import trouble
from evac_monitor.core.states import On
from evac_monitor.core.trouble import Answers, Unanswered

STOP = Unanswered(node_id="n1", asked=("web", "stop", 1, 0))
START = Unanswered(node_id="n1", asked=("db", "start", 1, 1))


def why(answers: Answers, now_s: float, *, degraded: bool = False) -> str | None:
    return answers.why("n1", now_s, 300, degraded=degraded)


def test_one_command_must_stay_unanswered_for_the_whole_time() -> None:
    answers = Answers()
    for now_s in range(0, 300, 5):
        answers.see([STOP], now_s)
        assert why(answers, now_s) == ""

    assert why(answers, 300) == "1 commands are unanswered, one for 300 s"


def test_commands_that_follow_one_another_are_answered_ones() -> None:
    answers = Answers()
    for now_s in range(0, 1000, 100):
        answers.see([STOP if now_s % 200 else START], now_s)

        assert why(answers, now_s) == ""


def test_a_degraded_node_is_one_until_nothing_is_open() -> None:
    answers = Answers()
    assert why(answers, 0, degraded=True) is None, "nobody has looked"
    answers.see([STOP], 0)
    assert why(answers, 1, degraded=True) != ""
    answers.see([], 5)
    assert why(answers, 5, degraded=True) == ""


def test_what_could_not_be_answered_does_not_count() -> None:
    answers = Answers()
    answers.see([STOP], 0)
    answers.forget()
    answers.see([STOP], 299)

    assert why(answers, 400) == ""


@pytest.mark.parametrize("state", [s for s in NodeState if s not in {"up", "degraded"}])
def test_only_a_serving_node_is_judged(state: NodeState) -> None:
    node = trouble.Node(
        state=state, recorded=[], told={"libvirt": "x"}, in_session=True, not_executing="y"
    )

    assert trouble.decide(node) is None


@given(
    recorded=st.sets(st.sampled_from(Trouble)),
    told=st.none() | st.dictionaries(st.sampled_from(["libvirt", "storage", "other"]), st.text()),
    in_session=st.booleans(),
    not_executing=st.sampled_from([None, "", "late"]),
)
def test_a_change_leads_to_what_is_told_and_the_same_again_changes_nothing(
    recorded: set[Trouble],
    told: dict[str, str] | None,
    in_session: bool,
    not_executing: str | None,
) -> None:
    state = NodeState.DEGRADED if recorded else NodeState.UP
    node = trouble.Node(
        state=state,
        recorded=recorded,
        told=told,
        in_session=in_session,
        not_executing=not_executing,
    )

    change = trouble.decide(node)

    if change is None or change.on is On.HEARD_WITHOUT_SESSION:
        return
    assert (change.on is On.RECOVERED) == (not change.troubles)
    assert Trouble.DAEMON_SILENT not in change.troubles, "it was heard"
    after = trouble.Node(
        state=NodeState.DEGRADED if change.troubles else NodeState.UP,
        recorded=list(change.troubles),
        told=told,
        in_session=in_session,
        not_executing=not_executing,
    )
    assert trouble.decide(after) is None
