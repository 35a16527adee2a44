"""Each gate alone, and what they say together."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac_monitor.core import gate
from evac_monitor.core.gate import Gate
from evac_monitor.core.witnesses import Round, Sighting

POLICY = gate.Policy(hold_off_s=60, blast_radius=0.34, fence_interval_s=10, fence_parallel=2)
WELL = gate.Health(write_age_s=0.5, lag_s=0.0, canary_age_s=1.0)
CALM = gate.View(
    health=WELL, steady_s=100, discontinuity="this monitor started", nodes=3, dead=["n1"]
)


NOBODY_ASKED = gate.Subject()


def shut(view: gate.View, subject: gate.Subject = NOBODY_ASKED) -> list[Gate]:
    return [answer.gate for answer in gate.ask(view, subject, POLICY) if not answer.open]


def test_one_dead_node_of_three_may_be_fenced() -> None:
    assert shut(CALM) == []


@pytest.mark.parametrize(
    ("change", "expected", "words"),
    [
        ({"health": replace(WELL, write_age_s=None)}, Gate.OWN_HEALTH, "no write"),
        ({"health": replace(WELL, write_age_s=2.0)}, Gate.OWN_HEALTH, "2.0 s old"),
        ({"health": replace(WELL, lag_s=1.5)}, Gate.OWN_HEALTH, "1.5 s late"),
        ({"health": replace(WELL, canary_age_s=5.0)}, Gate.OWN_HEALTH, "came back 5.0 s ago"),
        ({"health": replace(WELL, canary_age_s=None)}, Gate.OWN_HEALTH, "has come back"),
        ({"health": replace(WELL, clock_jump_s=-3)}, Gate.OWN_HEALTH, "jumped by -3.0 s"),
        ({"steady_s": 59.0}, Gate.HOLD_OFF, "this monitor started 59.0 s ago; waits 1.0 s"),
        ({"dead": ["n1", "n2"]}, Gate.BLAST_RADIUS, "2 of 3 nodes, at most 1: n1, n2"),
        ({"wavering": ["n2"]}, Gate.BLAST_RADIUS, "waits for n2"),
        ({"fencings": 2}, Gate.RATE, "2 fencings"),
        ({"last_fencing_age_s": 9.9}, Gate.RATE, "9.9 s ago"),
        ({"disarmed_for_s": 5.0, "disarmed_reason": "new switch"}, Gate.DISARMED, "new switch"),
        ({"storm": True, "storm_reason": "half is gone"}, Gate.STORM, "half is gone"),
    ],
)
def test_each_gate_shuts_alone_and_says_why(
    change: dict[str, Any], expected: Gate, words: str
) -> None:
    answers = gate.ask(replace(CALM, **change), NOBODY_ASKED, POLICY)

    closed = [answer for answer in answers if not answer.open]
    assert [answer.gate for answer in closed] == [expected]
    assert words in closed[0].why


def test_every_gate_always_answers() -> None:
    answers = gate.ask(replace(CALM, storm=True, steady_s=0), NOBODY_ASKED, POLICY)

    assert [answer.gate for answer in answers] == list(gate.GATES)
    assert all(answer.why for answer in answers)


def test_a_last_fencing_in_the_far_future_does_not_stop_fencing_for_ever() -> None:
    assert shut(replace(CALM, last_fencing_age_s=-3600.0)) == []


@pytest.mark.parametrize(("nodes", "limit"), [(1, 1), (2, 1), (5, 1), (6, 2), (100, 34)])
def test_the_blast_limit_is_a_third_and_at_least_one(nodes: int, limit: int) -> None:
    assert gate.blast_limit(nodes, POLICY) == limit


def storm_of(view: gate.View) -> str:
    return gate.storm_to_declare(view, POLICY)


def test_a_storm_is_declared_above_the_limit() -> None:
    assert "2 of 3 nodes look dead" in storm_of(replace(CALM, dead=["n1", "n2"]))


@pytest.mark.parametrize(
    "change",
    [
        {"dead": ["n1"], "wavering": ["n2", "n3"]},
        {"storm": True},
        {"steady_s": 1.0},
        {"disarmed_for_s": 60.0},
        {"health": replace(WELL, canary_age_s=9.0)},
    ],
)
def test_no_storm_is_declared_by_who_cannot_know_or_need_not(change: dict[str, Any]) -> None:
    assert storm_of(replace(CALM, **({"dead": ["n1", "n2"]} | change))) == ""


@given(
    nodes=st.integers(1, 50),
    dead=st.integers(0, 50),
    wavering=st.integers(0, 50),
    steady_s=st.floats(0, 200),
    fencings=st.integers(0, 5),
    storm=st.booleans(),
)
def test_all_gates_open_means_few_dead_and_a_steady_view(
    nodes: int, dead: int, wavering: int, steady_s: float, fencings: int, storm: bool
) -> None:
    view = replace(
        CALM,
        nodes=nodes,
        dead=[f"d{number}" for number in range(dead)],
        wavering=[f"w{number}" for number in range(wavering)],
        steady_s=steady_s,
        fencings=fencings,
        storm=storm,
    )

    if not shut(view):
        assert dead + wavering <= max(1, int(0.34 * nodes))
        assert steady_s >= POLICY.hold_off_s
        assert fencings < POLICY.fence_parallel
        assert not storm


OFF = gate.Subject(found_off="its power was read off twice at b")
ALIVE = Sighting(alive=True, why="it writes", at_s=0)


@pytest.mark.parametrize(
    ("told", "open_when_waiting", "open_when_fencing"),
    [
        (None, False, False),
        (replace(ALIVE, alive=None), False, False),
        (ALIVE, False, True),
        (replace(ALIVE, alive=False), True, True),
    ],
)
def test_the_second_channel_must_be_silent_too(
    told: Sighting | None, open_when_waiting: bool, open_when_fencing: bool
) -> None:
    view, subject = replace(CALM, has_second_channel=True), gate.Subject(second=told)
    fencing = replace(POLICY, on_isolated=gate.OnIsolated.FENCE)

    assert gate.second_channel(view, subject, POLICY).open is open_when_waiting
    assert gate.second_channel(view, subject, fencing).open is open_when_fencing


@pytest.mark.parametrize(
    ("failed", "reached", "mute", "expected"),
    [
        (3, 0, 0, True),
        (2, 1, 0, True),
        (2, 0, 1, True),
        (1, 2, 0, False),
        (1, 0, 2, False),
        (2, 0, 0, True),
        (1, 1, 0, False),
        (1, 0, 1, False),
        (1, 0, 0, True),
        (0, 0, 1, False),
        (0, 0, 0, True),
    ],
)
def test_more_than_half_of_the_peers_asked_must_fail_to_reach_it(
    failed: int, reached: int, mute: int, expected: bool
) -> None:
    names = ["a", "b", "c"]
    told = Round(
        failed=tuple(names[:failed]),
        reached=tuple(names[failed : failed + reached]),
        mute=tuple(names[failed + reached : failed + reached + mute]),
        at_s=0,
    )

    answer = gate.peers(replace(CALM, has_peers=True), gate.Subject(peers=told), POLICY)
    assert answer.open is expected


def test_witnesses_that_have_not_answered_hold_and_absent_ones_say_so() -> None:
    asked = replace(CALM, has_second_channel=True, has_peers=True)

    assert shut(asked) == [Gate.SECOND_CHANNEL, Gate.PEERS]
    absent = {answer.gate: answer.why for answer in gate.ask(CALM, NOBODY_ASKED, POLICY)}
    assert absent[Gate.SECOND_CHANNEL] == "no second channel is configured"
    assert absent[Gate.PEERS] == "no way to ask peers is configured"


def test_a_node_without_power_passes_the_blast_radius_and_a_storm_and_nothing_else() -> None:
    many = replace(CALM, dead=["n1", "n2"], storm=True, all_silent="the broker")
    assert shut(many) == [Gate.BLAST_RADIUS, Gate.STORM]
    assert shut(many, OFF) == []

    every = replace(
        many,
        health=replace(WELL, canary_age_s=None),
        steady_s=1,
        recovering=True,
        fencings=5,
        disarmed_for_s=5,
        has_second_channel=True,
        has_peers=True,
    )
    assert set(gate.GATES) - set(shut(every, OFF)) == {Gate.BLAST_RADIUS, Gate.STORM}


@pytest.mark.parametrize(
    "change",
    [{"all_silent": "the broker"}, {"unread": ["n2"]}, {"recovering": True}],
)
def test_no_storm_while_it_may_end_by_itself(change: dict[str, Any]) -> None:
    assert storm_of(replace(CALM, **({"dead": ["n1", "n2"]} | change))) == ""


@pytest.mark.parametrize(
    ("ago_s", "set_back_s", "until_ago_s"),
    [(None, 0, None), (10, 0, 10), (10, 60, 70), (-600, 600, 0), (-600, 0, None)],
)
def test_a_release_forgives_what_was_known_and_nothing_that_comes(
    ago_s: float | None, set_back_s: float, until_ago_s: float | None
) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def at(ago: float | None) -> datetime | None:
        return None if ago is None else now - timedelta(seconds=ago)

    assert gate.forgiven_until(at(ago_s), now, set_back_s) == at(until_ago_s)
