from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac_common.model.states import NodeState
from evac_scheduler.core import placement
from evac_scheduler.core.placement import (
    CandidateVerdict,
    Filter,
    NodeView,
    PoolView,
    Request,
    View,
    Weigher,
)


def _node(name: str, *, free: int = 1024, state: NodeState = NodeState.UP) -> NodeView:
    return NodeView(
        node_id=f"id-{name}",
        name=name,
        state=state,
        vcpus=16,
        memory_mib=1024,
        vcpus_free=16,
        memory_mib_free=free,
    )


def _request(name: str = "web-1", *, memory_mib: int = 100, priority: int = 3) -> Request:
    return Request(
        instance_id=f"id-{name}", name=name, priority=priority, vcpus=1, memory_mib=memory_mib
    )


def _view(*nodes: NodeView, pools: dict[str, PoolView] | None = None) -> View:
    return View(nodes=nodes, pools=pools or {})


def test_the_node_with_the_most_memory_left_is_chosen_and_every_node_has_a_reason() -> None:
    view = _view(_node("n1", free=500), _node("n2", free=900), _node("n3", state=NodeState.SUSPECT))

    (decision,) = placement.plan(view, [_request()])

    assert decision.node_id == "id-n2"
    assert [(each.node, each.verdict, each.why) for each in decision.candidates] == [
        ("n1", CandidateVerdict.POSSIBLE, "400 of 1024 MiB would be left"),
        ("n2", CandidateVerdict.CHOSEN, "800 of 1024 MiB would be left"),
        ("n3", CandidateVerdict.REFUSED, "state suspect, not up"),
    ]


def test_ties_are_broken_by_name_whatever_the_order_of_the_rows() -> None:
    for nodes in ((_node("b"), _node("a")), (_node("a"), _node("b"))):
        (decision,) = placement.plan(_view(*nodes), [_request()])
        assert decision.node_id == "id-a"


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (replace(_node("n1"), state=NodeState.JOINING), "state joining, not up"),
        (replace(_node("n1"), vcpus_free=0), "1 vCPUs needed, 0 of 16 free"),
        (_node("n1", free=99), "100 MiB needed, 99 of 1024 MiB free"),
        (replace(_node("n1"), node_id="other"), "pool shared is not reachable from it"),
        (replace(_node("n1"), bridges=frozenset()), "bridge br0 is missing"),
        (replace(_node("n1"), labels={"zone": "b"}), "label zone=a is required, it has b"),
    ],
)
def test_each_filter_says_why(node: NodeView, why: str) -> None:
    pools = {"shared": PoolView(name="shared", nodes=frozenset({"id-n1"}))}
    fits = replace(_node("n1"), bridges=frozenset({"br0"}), labels={"zone": "a"})
    request = replace(_request(), pools=("shared",), bridges=("br0",), node_selector={"zone": "a"})
    assert placement.plan(_view(fits, pools=pools), [request])[0].node_id == "id-n1"

    changed = replace(
        fits,
        node_id=node.node_id,
        state=node.state,
        vcpus_free=node.vcpus_free,
        memory_mib_free=node.memory_mib_free,
        bridges=node.bridges if why.startswith("bridge") else fits.bridges,
        labels=node.labels if why.startswith("label") else fits.labels,
    )
    (decision,) = placement.plan(_view(changed, pools=pools), [request])

    assert decision.node_id is None
    assert decision.candidates[0].why == why


def test_an_instance_on_its_dead_nodes_own_storage_stays_open_as_local_storage() -> None:
    pools = {"local": PoolView(name="local", nodes=frozenset({"id-n1"}))}
    request = replace(_request(), pools=("local",))
    dead = _node("n1", state=NodeState.FENCED)

    (waits,) = placement.plan(_view(dead, _node("n2"), pools=pools), [request])
    (back,) = placement.plan(_view(_node("n1"), _node("n2"), pools=pools), [request])

    assert waits.node_id is None
    assert waits.why == "local_storage: pool local is on n1 alone, and it is not up"
    assert back.node_id == "id-n1"


def test_a_node_that_gave_the_instance_up_comes_last_and_is_not_excluded() -> None:
    request = replace(_request(), avoid_node_id="id-n1")
    roomy, small = _node("n1"), _node("n2", free=200)

    (other,) = placement.plan(_view(roomy, small), [request])
    (same,) = placement.plan(_view(roomy), [request])

    assert other.node_id == "id-n2"
    assert same.node_id == "id-n1"


def test_a_policy_is_a_named_function_more() -> None:
    never = Filter("never", lambda request, node, view: "because" if node.name == "n1" else None)
    small = Weigher("small names", lambda request, node, view: -float(node.name[1:]))
    view = _view(_node("n1"), _node("n2"), _node("n3"))

    (decision,) = placement.plan(
        view,
        [_request()],
        filters=(*placement.FILTERS, never),
        weighers=(small, *placement.WEIGHERS),
    )

    assert decision.node_id == "id-n2"
    assert decision.candidates[0].why == "because"


def test_without_any_node_it_says_so() -> None:
    (decision,) = placement.plan(_view(), [_request()])

    assert (decision.node_id, decision.why) == (None, "no node is enrolled")


nodes = st.lists(
    st.builds(
        lambda number, state, vcpus, memory_mib, taken: NodeView(
            node_id=f"id-{number}",
            name=f"n{number}",
            state=state,
            vcpus=vcpus,
            memory_mib=memory_mib,
            vcpus_free=vcpus,
            memory_mib_free=max(0, memory_mib - taken),
        ),
        st.integers(0, 9),
        st.sampled_from([NodeState.UP, NodeState.UP, NodeState.UP, NodeState.FENCED]),
        st.integers(1, 16),
        st.integers(64, 1024),
        st.integers(0, 500),
    ),
    max_size=6,
    unique_by=lambda node: node.node_id,
)
requests = st.lists(
    st.builds(
        lambda number, priority, vcpus, memory_mib: Request(
            instance_id=f"id-{number:03}",
            name=f"i{number:03}",
            priority=priority,
            vcpus=vcpus,
            memory_mib=memory_mib,
        ),
        st.integers(0, 999),
        st.integers(1, 5),
        st.integers(1, 4),
        st.integers(2, 600),
    ),
    max_size=25,
    unique_by=lambda request: request.instance_id,
)


@given(nodes=nodes, requests=requests)
def test_no_node_is_ever_promised_more_than_it_has(
    nodes: list[NodeView], requests: list[Request]
) -> None:
    decisions = placement.plan(_view(*nodes), requests)

    for node in nodes:
        placed = [each.request for each in decisions if each.node_id == node.node_id]
        assert sum(request.memory_mib for request in placed) <= node.memory_mib_free
        assert sum(request.vcpus for request in placed) <= node.vcpus_free
        assert not placed or node.state is NodeState.UP
    assert sorted(each.request.instance_id for each in decisions) == sorted(
        request.instance_id for request in requests
    )
    assert all(len(each.candidates) == len(nodes) and each.why for each in decisions)


@given(nodes=nodes, requests=requests)
def test_nobody_loses_a_place_to_a_lower_priority(
    nodes: list[NodeView], requests: list[Request]
) -> None:
    decisions = placement.plan(_view(*nodes), requests)

    for each in decisions:
        higher = [one for one in requests if one.priority < each.request.priority]
        alone = placement.plan(
            _view(*nodes), [*higher, *(r for r in requests if r.priority == each.request.priority)]
        )
        same = next(one for one in alone if one.request is each.request)
        assert same.node_id == each.node_id


@given(nodes=nodes, requests=requests, seed=st.randoms())
def test_the_plan_does_not_depend_on_the_order_of_its_input(
    nodes: list[NodeView], requests: list[Request], seed: object
) -> None:
    shuffled, mixed = list(nodes), list(requests)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    seed.shuffle(mixed)  # type: ignore[attr-defined]  # as above

    assert placement.plan(_view(*shuffled), mixed) == placement.plan(_view(*nodes), requests)
