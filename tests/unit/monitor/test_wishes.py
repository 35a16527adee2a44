"""Operators' wishes, by state and by what is heard."""

from __future__ import annotations

import pytest

from evac_common.model.states import NodeState
from evac_monitor.core import wishes
from evac_monitor.core.states import On

SILENT = wishes.Hearing(silent_s=None, listening_s=100)


@pytest.mark.parametrize("state", [NodeState.UP, NodeState.JOINING, NodeState.SUSPECT])
def test_fence_acts_on_nodes_in_service(state: NodeState) -> None:
    assert wishes.fence(state) == wishes.Act(on=On.OPERATOR_FENCE)


def test_fence_waits_for_the_proof_and_is_refused_where_no_method_works() -> None:
    assert isinstance(wishes.fence(NodeState.FENCING), wishes.Wait)
    assert isinstance(wishes.fence(NodeState.FENCED), wishes.Succeed)
    assert isinstance(wishes.fence(NodeState.NEW), wishes.Refuse)
    blocked = wishes.fence(NodeState.BLOCKED)
    assert isinstance(blocked, wishes.Refuse)
    assert "confirm-down" in blocked.why


@pytest.mark.parametrize("state", [NodeState.SUSPECT, NodeState.FENCING, NodeState.BLOCKED])
def test_confirm_down_acts_on_silent_nodes(state: NodeState) -> None:
    assert wishes.confirm_down(state, SILENT, 8, recovering=False) == wishes.Act(
        on=On.OPERATOR_CONFIRMED
    )


@pytest.mark.parametrize("state", [NodeState.UP, NodeState.JOINING, NodeState.NEW])
def test_confirm_down_is_refused_elsewhere(state: NodeState) -> None:
    assert isinstance(wishes.confirm_down(state, SILENT, 8, recovering=False), wishes.Refuse)


def test_confirm_down_is_refused_against_heartbeats() -> None:
    hearing = wishes.Hearing(silent_s=2.0, listening_s=100)

    decision = wishes.confirm_down(NodeState.BLOCKED, hearing, 8, recovering=False)

    assert isinstance(decision, wishes.Refuse)
    assert "2.0 s ago" in decision.why


def test_confirm_down_waits_until_silence_can_be_told_from_deafness() -> None:
    young = wishes.Hearing(silent_s=None, listening_s=3)

    assert isinstance(
        wishes.confirm_down(NodeState.SUSPECT, young, 8, recovering=False), wishes.Wait
    )


def test_a_fenced_node_is_vouched_for_anew_only_while_recovering() -> None:
    fenced, heard = NodeState.FENCED, wishes.Hearing(silent_s=2.0, listening_s=100)
    young = wishes.Hearing(silent_s=None, listening_s=3)

    assert isinstance(wishes.confirm_down(fenced, SILENT, 8, recovering=False), wishes.Succeed)
    assert wishes.confirm_down(fenced, SILENT, 8, recovering=True) == wishes.Vouch()
    assert isinstance(wishes.confirm_down(fenced, heard, 8, recovering=True), wishes.Refuse)
    assert isinstance(wishes.confirm_down(fenced, young, 8, recovering=True), wishes.Wait)
