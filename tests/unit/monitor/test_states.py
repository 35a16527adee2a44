"""The table of node states, tested as a table."""

from __future__ import annotations

import pytest

from evac_common.model.states import NodeState
from evac_monitor.core.states import PROOFS, TABLE, On, diagram, next_row


def test_every_state_is_reached_from_new() -> None:
    reached = {NodeState.NEW}
    while grown := {row.then for row in TABLE if row.state in reached} - reached:
        reached |= grown

    assert reached == set(NodeState)


def test_every_state_can_lead_to_up_again() -> None:
    ends = {NodeState.UP}
    while grown := {row.state for row in TABLE if row.then in ends} - ends:
        ends |= grown

    assert ends == set(NodeState)


def test_nothing_becomes_fenced_without_proof() -> None:
    assert {row.on for row in TABLE if row.then is NodeState.FENCED} == set(PROOFS)


def test_only_a_silent_or_condemned_node_becomes_fenced() -> None:
    sources = {row.state for row in TABLE if row.then is NodeState.FENCED}

    assert sources == {NodeState.SUSPECT, NodeState.FENCING, NodeState.BLOCKED}


@pytest.mark.parametrize("state", [NodeState.FENCING, NodeState.BLOCKED, NodeState.FENCED])
def test_only_a_higher_incarnation_leads_back_to_service(state: NodeState) -> None:
    serving = {NodeState.UP, NodeState.JOINING, NodeState.SUSPECT}
    back = {row.on for row in TABLE if row.state is state and row.then in serving}

    assert back == {On.HIGHER_INCARNATION}


def test_nothing_leads_straight_from_fencing_to_up() -> None:
    assert not [row for row in TABLE if row.state is NodeState.FENCING and row.then is NodeState.UP]


def test_each_state_and_happening_has_at_most_one_row() -> None:
    keys = [(row.state, row.on) for row in TABLE]

    assert len(keys) == len(set(keys))


def test_what_is_not_in_the_table_does_not_happen() -> None:
    assert next_row(NodeState.NEW, On.SILENT) is None
    assert next_row(NodeState.FENCED, On.HEARD) is None
    assert next_row(NodeState.FENCING, On.REGISTERED) is None


def test_the_diagram_shows_every_row() -> None:
    drawn = diagram()

    assert drawn.startswith("stateDiagram-v2\n    [*] --> new\n")
    assert len(drawn.splitlines()) == len(TABLE) + 2
    assert "    fencing --> fenced: power proven\n" in drawn
