"""What a process remembers, and what makes it start over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evac_monitor.core.watch import INCARNATIONS_MAX, Elsewhere, Jumped, Vitals, Watch

N1 = "1" * 32


def test_heartbeats_are_kept_by_incarnation() -> None:
    watch = Watch(since_s=0)
    watch.hear(N1, incarnation=1, term=1, now_s=5)
    watch.hear(N1, incarnation=2, term=0, now_s=9)

    old, new = watch.heard(N1, 1), watch.heard(N1, 2)

    assert old is not None
    assert new is not None
    assert (old.at_s, new.at_s) == (5, 9)


def test_a_node_cannot_fill_the_memory_with_incarnations() -> None:
    watch = Watch(since_s=0)
    for number in range(1, 50):
        watch.hear(N1, incarnation=number, term=0, now_s=number)

    kept = [number for number in range(1, 50) if watch.heard(N1, number)]

    assert len(kept) == INCARNATIONS_MAX


def test_forgotten_nodes_and_old_incarnations_are_dropped() -> None:
    watch = Watch(since_s=0)
    watch.hear(N1, incarnation=1, term=1, now_s=5)
    watch.hear("2" * 32, incarnation=1, term=1, now_s=5)

    watch.keep({N1: 2})

    assert watch.heard(N1, 1) is None
    assert watch.heard("2" * 32, 1) is None


def test_silence_of_a_new_incarnation_counts_from_when_it_was_first_seen() -> None:
    watch = Watch(since_s=0)

    assert watch.watched_s(N1, 2, 50) == 50
    assert watch.watched_s(N1, 2, 60) == 50


def test_a_discontinuity_makes_everyone_heard_now() -> None:
    watch = Watch(since_s=0)
    watch.hear(N1, incarnation=1, term=1, now_s=5)
    watch.watched_s(N1, 1, 5)

    watch.discontinue("the broker came back", 100)

    assert watch.heard(N1, 1) is None
    assert watch.watched_s(N1, 1, 101) == 101
    assert (watch.since_s, watch.cause) == (100, "the broker came back")


def test_a_stall_and_a_jump_of_the_wall_clock_tear_the_view() -> None:
    vitals = Vitals()
    assert vitals.pulse(now_s=0, wall_s=1000, period_s=0.5) == ""
    assert vitals.pulse(now_s=0.5, wall_s=1000.5, period_s=0.5) == ""

    assert "stalled for 6.0 s" in vitals.pulse(now_s=7, wall_s=1007, period_s=0.5)
    assert "jumped by 60.0 s" in vitals.pulse(now_s=7.5, wall_s=1067.5, period_s=0.5)


def test_jumps_of_the_wall_clock_are_remembered_as_far_as_they_reach() -> None:
    vitals = Vitals()
    for now_s, wall_s in ((0, 1000), (0.5, 4600.5), (1, 1001), (1.5, 1001.55)):
        vitals.pulse(now_s=now_s, wall_s=wall_s, period_s=0.5)

    assert vitals.jumped(now_s=2, wall_s=1002.05) == Jumped(ahead_s=3600, back_s=3600)
    just_now = vitals.jumped(now_s=2, wall_s=1012.05, within_s=0.1)
    assert (just_now.ahead_s, just_now.back_s) == pytest.approx((10, 0))
    later = vitals.jumped(now_s=100, wall_s=1100.05, within_s=60)
    assert (later.ahead_s, later.back_s) == pytest.approx((0, 0))


def test_a_late_loop_is_remembered_for_a_while() -> None:
    vitals = Vitals()
    vitals.pulse(now_s=0, wall_s=0, period_s=0.5)
    vitals.pulse(now_s=2, wall_s=2, period_s=0.5)
    vitals.pulse(now_s=2.5, wall_s=2.5, period_s=0.5)

    assert vitals.health(now_s=3, canary_at_s=None).lag_s == 1.5
    vitals.pulse(now_s=8, wall_s=8, period_s=5.5)
    assert vitals.health(now_s=8, canary_at_s=None).lag_s == 0


def test_an_overdue_beat_is_lateness_before_it_came() -> None:
    vitals = Vitals()
    vitals.pulse(now_s=0, wall_s=0, period_s=0.5)

    assert vitals.health(now_s=20.5, canary_at_s=None).lag_s == 20


def test_a_backward_jump_of_the_wall_clock_shuts_the_gate_only() -> None:
    vitals = Vitals()
    vitals.pulse(now_s=0, wall_s=1000, period_s=0.5)

    assert vitals.pulse(now_s=0.5, wall_s=940.5, period_s=0.5) == ""
    assert vitals.health(now_s=1, canary_at_s=None).clock_jump_s == -60


def test_a_database_that_was_away_tears_the_view_a_lost_race_does_not() -> None:
    vitals = Vitals()
    assert vitals.wrote(0) == ""
    vitals.write_failed()
    assert vitals.wrote(1) == ""
    vitals.write_failed()

    assert "came back" in vitals.wrote(10)
    assert vitals.wrote(11) == ""


def test_each_new_connection_to_the_broker_tears_the_view_once() -> None:
    vitals = Vitals()

    assert vitals.connection(None) == ""
    assert vitals.connection(5.0) == "connected to the broker"
    assert vitals.connection(5.0) == ""
    assert vitals.connection(None) == ""
    assert "came back" in vitals.connection(30.0)


NOTED = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_changed_note_of_another_monitor_counts_from_its_age() -> None:
    elsewhere = Elsewhere(slack_s=7)
    elsewhere.see("n1", NOTED, now=NOTED, now_s=100)
    assert elsewhere.heard_s("n1") is None, "what was noted before we looked may be old"

    later = NOTED + timedelta(seconds=5)
    elsewhere.see("n1", later, now=later + timedelta(seconds=3), now_s=110)

    assert elsewhere.heard_s("n1") == 107


@pytest.mark.parametrize(("skew_s", "expected"), [(3600.0, 103.0), (-3600.0, 110.0)])
def test_a_wall_clock_that_is_wrong_by_an_hour_makes_no_living_node_old(
    skew_s: float, expected: float
) -> None:
    elsewhere = Elsewhere(slack_s=7)
    elsewhere.see("n1", None, now=NOTED, now_s=100)

    elsewhere.see("n1", NOTED, now=NOTED + timedelta(seconds=skew_s), now_s=110)

    assert elsewhere.heard_s("n1") == expected


def test_our_own_note_is_no_other_monitors_word_and_is_written_once_per_heartbeat() -> None:
    elsewhere = Elsewhere(slack_s=7)
    elsewhere.see("n1", None, now=NOTED, now_s=100)
    assert elsewhere.is_news("n1", 99)
    elsewhere.note("n1", 99, NOTED)

    elsewhere.see("n1", NOTED, now=NOTED, now_s=101)

    assert elsewhere.heard_s("n1") is None
    assert not elsewhere.is_news("n1", 99)
    assert elsewhere.is_news("n1", 101)
