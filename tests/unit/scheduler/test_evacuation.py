from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evac_common.model.states import ItemState, NodeState
from evac_scheduler.core import evacuation
from evac_scheduler.core.evacuation import FINAL, OPEN, TABLE, Limits, On, Slot


def test_every_state_is_reached_and_every_open_one_can_end() -> None:
    reached = {ItemState.PENDING} | {row.then for row in TABLE}
    assert reached == set(ItemState)

    ends = set(FINAL)
    while grown := {row.state for row in TABLE if row.then in ends} - ends:
        ends |= grown
    assert ends == set(ItemState)


def test_states_are_open_or_final() -> None:
    assert set(OPEN) | set(FINAL) == set(ItemState)
    assert not set(OPEN) & set(FINAL)


def test_only_a_running_report_makes_an_item_done() -> None:
    assert {row.on for row in TABLE if row.then is ItemState.DONE} == {On.RUNNING}
    assert not [row for row in TABLE if row.state is ItemState.DONE]


def test_only_an_unwanted_item_is_cancelled_and_it_comes_back_when_wanted() -> None:
    assert {row.on for row in TABLE if row.then is ItemState.CANCELLED} == {On.UNWANTED}
    assert [row.then for row in TABLE if row.state is ItemState.CANCELLED] == [ItemState.PENDING]


def test_an_open_item_can_be_cancelled_in_every_state() -> None:
    assert set(evacuation.sources(On.UNWANTED)) == set(OPEN)


def test_what_goes_wrong_leads_back_to_pending() -> None:
    wrong = (On.NO_TARGET, On.TARGET_LEFT, On.RELEASED, On.TARGET_DIED)

    assert {evacuation.then(on).then for on in wrong} == {ItemState.PENDING}


def test_an_occurrence_leads_to_one_state_only_and_a_row_is_unique() -> None:
    for on in On:
        assert len({row.then for row in TABLE if row.on is on}) == 1
    assert len({(row.state, row.on) for row in TABLE}) == len(TABLE)


def test_a_launch_moves_items_that_were_opened_after_the_booking_too() -> None:
    assert evacuation.sources(On.LAUNCHED) == (ItemState.RESERVED, ItemState.PENDING)


def _slot(number: int, node: str, *pools: str) -> Slot:
    return Slot(instance_id=f"{number:032x}", node_id=node, pools=pools)


def test_a_wave_fills_each_node_up_to_its_limit_in_order() -> None:
    waiting = [_slot(number, "n1" if number < 4 else "n2") for number in range(6)]

    wave = evacuation.select(waiting, [_slot(9, "n1")], Limits(per_node=2))

    assert wave.start == tuple(waiting[index].instance_id for index in (0, 4, 5))
    assert [held.why for held in wave.held] == ["2 starts are under way on its target"] * 3


def test_a_pool_that_is_busy_holds_back_only_its_own_instances() -> None:
    waiting = [_slot(1, "n1", "slow"), _slot(2, "n2", "slow"), _slot(3, "n3")]

    wave = evacuation.select(waiting, [], Limits(per_pool=1))

    assert wave.start == (waiting[0].instance_id, waiting[2].instance_id)
    assert wave.held[0].why == "1 starts are under way on pool slow"


slots = st.lists(
    st.builds(
        _slot,
        st.integers(0, 10_000),
        st.sampled_from(["n1", "n2", "n3"]),
        st.sampled_from(["p1", "p2"]),
        st.sampled_from(["p1", "p2"]),
    ),
    max_size=40,
    unique_by=lambda slot: slot.instance_id,
)


@given(
    everyone=slots,
    per_node=st.integers(1, 5),
    per_pool=st.integers(1, 5),
    total=st.integers(1, 8),
    cut=st.integers(0, 40),
)
def test_no_limit_is_ever_passed_by_a_wave(
    everyone: list[Slot], per_node: int, per_pool: int, total: int, cut: int
) -> None:
    limits = Limits(per_node=per_node, per_pool=per_pool, total=total)
    first = evacuation.select(everyone[:cut], [], limits)
    by_id = {slot.instance_id: slot for slot in everyone}
    starting = [by_id[each] for each in first.start]

    wave = evacuation.select(everyone[cut:], starting, limits)

    under_way = [*starting, *(by_id[each] for each in wave.start)]
    assert len(under_way) <= total
    for node in ("n1", "n2", "n3"):
        assert sum(slot.node_id == node for slot in under_way) <= per_node
    for pool in ("p1", "p2"):
        assert sum(pool in slot.pools for slot in under_way) <= per_pool
    assert len(wave.start) + len(wave.held) == len(everyone[cut:])
    if not under_way and everyone[cut:]:
        raise AssertionError("a free cluster starts nothing")


def test_a_wish_waits_for_the_proof_and_for_the_last_item() -> None:
    for state in (NodeState.SUSPECT, NodeState.FENCING, NodeState.BLOCKED):
        assert evacuation.answer_wish(state, evacuations=0, waiting=0).succeeded is None
    assert evacuation.answer_wish(NodeState.FENCED, evacuations=1, waiting=2).succeeded is None
    assert evacuation.answer_wish(NodeState.FENCED, evacuations=1, waiting=0).succeeded is True
    assert evacuation.answer_wish(NodeState.UP, evacuations=1, waiting=0).succeeded is True
    assert evacuation.answer_wish(NodeState.UP, evacuations=0, waiting=0).succeeded is False
    assert evacuation.answer_wish(None, evacuations=0, waiting=0).succeeded is False
