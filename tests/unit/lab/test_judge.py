"""The judge finds what it is there to find, and nothing else."""

from __future__ import annotations

import pytest

from evac_lab.judge import Execution, judge


def life(instance: str, node: str, started_s: float, ended_s: float | None) -> Execution:
    return Execution(instance=instance, node=node, started_s=started_s, ended_s=ended_s)


def test_a_restart_after_the_death_of_the_first_copy_is_clean() -> None:
    verdict = judge(
        [life("web", "n1", 10, 120), life("web", "n2", 150, None)], should_run=["web"], end_s=300
    )

    assert verdict.violations == []
    assert verdict.histories["web"].node == "n2"
    assert verdict.histories["web"].downtime_s == pytest.approx(30)


def test_a_second_copy_beside_a_living_one_is_found_with_its_length() -> None:
    verdict = judge(
        [life("web", "n1", 10, 160), life("web", "n2", 150, None)], should_run=["web"], end_s=300
    )

    assert verdict.ran_twice == ("web",)
    assert verdict.histories["web"].overlap_s == pytest.approx(10)
    assert "on n1 and n2" in verdict.violations[0]


def test_a_copy_on_the_same_node_counts_as_running_twice() -> None:
    verdict = judge(
        [life("web", "n1", 0, None), life("web", "n1", 5, None)], should_run=[], end_s=10
    )

    assert verdict.ran_twice == ("web",)


def test_an_instance_that_ended_and_never_came_back_is_lost() -> None:
    verdict = judge([life("web", "n1", 0, 100)], should_run=["web", "never"], end_s=130)

    assert verdict.lost == ("never", "web")
    assert verdict.histories["web"].downtime_s == pytest.approx(30)


def test_a_stopped_instance_is_not_lost() -> None:
    assert judge([life("web", "n1", 0, 100)], should_run=[], end_s=130).violations == []


def test_one_copy_ending_in_the_moment_the_next_begins_does_not_overlap() -> None:
    assert not judge(
        [life("w", "n1", 0, 5), life("w", "n2", 5, None)], should_run=["w"], end_s=9
    ).overlaps
