from __future__ import annotations

import itertools

import pytest

from evac_common.model.states import NodeState, Phase
from evac_scheduler.core import life
from evac_scheduler.core.facts import Owner
from evac_scheduler.core.life import Do, Reach, Want

ALL = tuple(itertools.product(Want, Owner, Phase, Reach))


def test_every_combination_has_an_answer_with_a_reason() -> None:
    for want, owner, phase, reach in ALL:
        assert life.find(want, owner, phase, reach).why


def test_every_row_is_the_answer_to_something() -> None:
    used = [life.find(*each) for each in ALL]

    assert [row for row in life.TABLE if row not in used] == []


def test_a_new_owner_is_looked_for_only_without_a_living_one() -> None:
    for want, owner, phase, reach in ALL:
        if life.find(want, owner, phase, reach).do in (Do.PLACE, Do.RECOVER):
            assert want is Want.RUN
            assert owner is not Owner.LIVE


def test_nothing_is_started_that_nobody_wants() -> None:
    starts = (Do.PLACE, Do.RECOVER, Do.START_AGAIN, Do.SEND_START)
    for owner, phase, reach in itertools.product(Owner, Phase, Reach):
        assert life.find(Want.HALT, owner, phase, reach).do not in starts


def test_nothing_is_sent_to_a_silent_node_and_no_start_to_a_joining_one() -> None:
    for want, owner, phase in itertools.product(Want, Owner, Phase):
        away = life.find(want, owner, phase, Reach.AWAY).do
        joining = life.find(want, owner, phase, Reach.JOINING).do

        assert away not in (Do.SEND_START, Do.SEND_STOP, Do.START_AGAIN)
        assert joining not in (Do.SEND_START, Do.START_AGAIN)


def test_a_wanted_instance_that_does_not_run_is_never_left_alone() -> None:
    for owner, phase, reach in itertools.product(Owner, Phase, Reach):
        row = life.find(Want.RUN, owner, phase, reach)
        runs = owner is Owner.LIVE and phase is Phase.RUNNING

        assert (row.do is Do.NOTHING) == runs


@pytest.mark.parametrize("state", list(NodeState))
def test_only_nodes_in_a_session_are_talked_to(state: NodeState) -> None:
    talks = life.reach(state) is not Reach.AWAY

    assert talks == (state in (NodeState.UP, NodeState.DEGRADED, NodeState.JOINING))
