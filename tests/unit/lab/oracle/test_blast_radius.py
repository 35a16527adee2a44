"""S8: how many nodes may be cut off automatically, and what an operator's word changes."""

from __future__ import annotations

from typing import Any

import pytest

from evac_lab.oracle import Timings
from tests.unit.lab.oracle.history import History


def _cut_off(cluster: History, node: str, **columns: Any) -> None:
    cluster.oracle.fault("W", "off", cluster.at)
    cluster.state(node, "fencing", **columns)
    cluster.commit()
    cluster.oracle.powered_off(node, cluster.at)
    cluster.proof(node, 1)
    cluster.state(node, "fenced")
    cluster.commit()


def test_s8_a_second_of_four_nodes(cluster: History) -> None:
    _cut_off(cluster, "n3")
    assert cluster.broken == []
    _cut_off(cluster, "n4")
    assert cluster.broken == ["S8"]


@pytest.mark.parametrize(("forgotten", "broken"), [(True, []), (False, ["S8"])])
def test_s8_a_fencing_that_the_database_forgot_was_never_made(
    cluster: History, forgotten: bool, broken: list[str]
) -> None:
    _cut_off(cluster, "n3")
    if forgotten:
        cluster.sql.execute("DELETE FROM proof_node")
    cluster.state("n3", "up", incarnation=2)
    cluster.oracle.restored(cluster.at)
    cluster.commit()
    _cut_off(cluster, "n4")
    assert cluster.broken == broken


@pytest.mark.parametrize(("restarted", "broken"), [(True, []), (False, ["S8"])])
def test_s8_a_monitor_knows_of_no_jump_before_its_start(
    cluster: History, restarted: bool, broken: list[str]
) -> None:
    _cut_off(cluster, "n3")
    cluster.oracle.fault("M", "jump", cluster.at)
    if restarted:
        cluster.oracle.process("monitor-1", "killed", cluster.at)
        cluster.oracle.process("monitor-1", "started", cluster.at)
    _cut_off(cluster, "n4")
    assert cluster.broken == broken


def test_s8_is_judged_again_once_the_window_has_passed_since_the_jump(cluster: History) -> None:
    cluster.oracle.fault("M", "jump", cluster.at)
    cluster.oracle.process("monitor-1", "killed", cluster.at)
    cluster.oracle.process("monitor-1", "started", cluster.at)
    cluster.at += Timings().blast_window_s + 20
    _cut_off(cluster, "n3")
    _cut_off(cluster, "n4")
    assert cluster.broken == ["S8"]


def test_s8_after_the_window_another_may(cluster: History) -> None:
    _cut_off(cluster, "n3")
    cluster.at += Timings().blast_window_s + 10
    _cut_off(cluster, "n4")
    assert cluster.broken == []


def test_s8_one_that_is_blocked_counts_however_long(cluster: History) -> None:
    cluster.oracle.fault("P", "off", cluster.at)
    cluster.state("n3", "fencing")
    cluster.commit()
    cluster.state("n3", "blocked")
    cluster.event("node.blocked", "n3", alarm=True)
    cluster.commit()
    cluster.at += Timings().blast_window_s + 10
    _cut_off(cluster, "n4")
    assert cluster.broken == ["S8"]


def _release_storm(cluster: History) -> None:
    cluster.flags(storm_released_at=f"2026-01-01 00:10:{cluster.at:02.0f}")
    cluster.commit()


def test_s8_who_was_away_when_a_storm_was_released_does_not_count(cluster: History) -> None:
    _cut_off(cluster, "n3")
    cluster.end("a", "n1")
    for node in ("n1", "n4"):
        cluster.state(node, "suspect")
    cluster.commit()
    _release_storm(cluster)
    _cut_off(cluster, "n4")
    _cut_off(cluster, "n1")
    assert cluster.broken == []


def test_s8_what_an_operator_has_seen_stays_seen_when_the_node_is_back(cluster: History) -> None:
    _cut_off(cluster, "n3")
    cluster.state("n3", "up", incarnation=2)
    cluster.commit()
    _release_storm(cluster)
    _cut_off(cluster, "n4")
    assert cluster.broken == []


def test_s8_who_was_back_before_counts_again(cluster: History) -> None:
    for node in ("n3", "n4"):
        cluster.state(node, "suspect")
    cluster.commit()
    _release_storm(cluster)
    for node in ("n3", "n4"):
        cluster.state(node, "up")
    cluster.commit()
    _cut_off(cluster, "n3")
    assert cluster.broken == []
    _cut_off(cluster, "n4")
    assert cluster.broken == ["S8"]


def test_s8_an_operators_word_is_no_automatic_fencing(cluster: History) -> None:
    _cut_off(cluster, "n3")
    cluster.state("n4", "fencing", actor="alice")
    cluster.commit()
    assert cluster.broken == []


def test_s8_a_node_that_was_off_is_dead_and_not_partitioned(cluster: History) -> None:
    _cut_off(cluster, "n3")
    cluster.cut("n4")
    cluster.state("n4", "fencing", found_off=1)
    cluster.commit()
    assert cluster.broken == []


def test_s8_a_node_that_was_only_called_off_counts(cluster: History) -> None:
    _cut_off(cluster, "n3")
    cluster.state("n4", "fencing", found_off=1)
    cluster.commit()
    assert cluster.broken == ["S8"]
