"""Silence, counted by our own clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac_common.model.states import NodeState
from evac_monitor.core import suspicion
from evac_monitor.core.states import On

POLICY = suspicion.Policy(suspect_after_s=8, fence_after_s=20, together_s=3)


def a_node(state: NodeState, *, heard_s: float | None = None, **fields: object) -> suspicion.Node:
    values: dict[str, object] = {"watched_s": 0.0, "term": 1, "heard_term": 1, "name": "n1"}
    values |= fields
    return suspicion.Node(node_id="1" * 32, state=state, heard_s=heard_s, **values)  # type: ignore[arg-type] # a test's own shorthand


def decide(now_s: float, *nodes: suspicion.Node, deaf: str = "") -> tuple[suspicion.Decision, ...]:
    return suspicion.decide(suspicion.View(now_s=now_s, nodes=nodes, deaf=deaf), POLICY)


def test_a_node_heard_lately_is_left_alone() -> None:
    assert decide(100, a_node(NodeState.UP, heard_s=92.5)) == ()


def test_a_node_silent_for_the_suspect_time_becomes_suspect() -> None:
    (decision,) = decide(100, a_node(NodeState.UP, heard_s=92))

    assert isinstance(decision, suspicion.Change)
    assert decision.on is On.SILENT
    assert decision.why == "silent for 8.0 s"


def test_silence_counts_from_when_we_could_first_have_heard() -> None:
    assert decide(100, a_node(NodeState.UP, heard_s=10, watched_s=95)) == ()


def test_a_suspect_that_speaks_in_its_session_is_up_again() -> None:
    (decision,) = decide(100, a_node(NodeState.SUSPECT, heard_s=99))

    assert isinstance(decision, suspicion.Change)
    assert decision.on is On.HEARD


def test_a_suspect_that_speaks_outside_its_session_is_joining() -> None:
    (decision,) = decide(100, a_node(NodeState.SUSPECT, heard_s=99, heard_term=0))

    assert isinstance(decision, suspicion.Change)
    assert decision.on is On.HEARD_WITHOUT_SESSION


def test_a_suspect_is_not_restored_only_because_our_watch_is_young() -> None:
    assert decide(100, a_node(NodeState.SUSPECT, watched_s=99)) == ()


def test_a_suspect_silent_for_the_fence_time_is_overdue() -> None:
    (decision,) = decide(100, a_node(NodeState.SUSPECT, heard_s=80))

    assert isinstance(decision, suspicion.Overdue)


def test_a_deaf_monitor_suspects_nobody_and_says_why() -> None:
    decisions = decide(
        100, a_node(NodeState.UP), a_node(NodeState.SUSPECT), deaf="the broker is away"
    )

    assert decisions == (suspicion.Hold(why="the broker is away"),)


def test_the_longest_silent_comes_first_and_ties_go_by_name() -> None:
    late = a_node(NodeState.SUSPECT, heard_s=50, name="z")
    tied = [a_node(NodeState.SUSPECT, heard_s=60, name=name) for name in ("b", "a")]

    decisions = decide(100, *tied, late)

    assert [d.silent_s for d in decisions if isinstance(d, suspicion.Overdue)] == [50, 40, 40]


@given(
    state=st.sampled_from(list(NodeState)),
    heard_s=st.none() | st.floats(0, 100),
    watched_s=st.floats(0, 100),
    deaf=st.sampled_from(["", "deaf"]),
)
def test_only_silence_without_deafness_ever_counts_against_a_node(
    state: NodeState, heard_s: float | None, watched_s: float, deaf: str
) -> None:
    node = a_node(state, heard_s=heard_s, watched_s=watched_s)

    for decision in decide(100, node, deaf=deaf):
        match decision:
            case suspicion.Overdue(silent_s=silent_s):
                assert not deaf
                assert state is NodeState.SUSPECT
                assert silent_s >= POLICY.fence_after_s
            case suspicion.Change(on=On.SILENT, silent_s=silent_s):
                assert not deaf
                assert silent_s >= POLICY.suspect_after_s
            case suspicion.Change():
                assert state is NodeState.SUSPECT


def fell(at_s: float, *, count: int, first: int = 0) -> list[suspicion.Node]:
    return [
        replace(a_node(NodeState.UP, heard_s=at_s, name=f"n{number}"), node_id=f"{number:032x}")
        for number in range(first, first + count)
    ]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (fell(50, count=5), True),
        (fell(50, count=1), False),  # one node alone is a node
        (fell(50, count=2), True),
        (fell(50, count=2) + fell(99, count=1, first=2), False),  # two of three
        (fell(50, count=9) + fell(99, count=1, first=9), True),  # nearly all
        (fell(50, count=8) + fell(99, count=2, first=8), False),
        (fell(50, count=2) + fell(53, count=2, first=2), True),  # within one window
        (fell(50, count=2) + fell(60, count=1, first=2), False),  # one after the others
        (fell(10, count=1) + fell(50, count=4, first=1), True),  # one was dead long before
    ],
)
def test_nearly_all_silent_within_a_window_are_silent_at_once(
    nodes: list[suspicion.Node], expected: bool
) -> None:
    found = suspicion.all_at_once(nodes, 100, POLICY)

    assert (found is not None) is expected


def test_isolated_nodes_are_no_part_of_a_silent_broker() -> None:
    nodes = [replace(node, isolated=True) for node in fell(50, count=3)]

    assert suspicion.all_at_once(nodes, 100, POLICY) is None


def test_what_another_monitor_heard_counts() -> None:
    node = a_node(NodeState.UP, heard_s=10, elsewhere_s=95)

    assert decide(100, node) == ()
    assert decide(103, node) != ()
