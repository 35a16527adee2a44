"""S6 and S7: each history that breaks one of them is found, by that one and by no other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.lab.oracle.history import History, instance_id

# -- S6 --------------------------------------------------------------------------------------------


def _owned(cluster: History) -> dict[str, Any]:
    cluster.declare("c")
    cluster.own("c", 1, "n4")
    cluster.commit()
    return {"instance_id": instance_id("c"), "epoch": 1, "run": 1}


def test_s6_nobody_commanded_it(cluster: History) -> None:
    _owned(cluster)
    cluster.begin("c", "n4")
    assert cluster.broken == ["S6"]


def test_s6_another_run_was_commanded(cluster: History) -> None:
    cluster.command("n4", "start", **{**_owned(cluster), "run": 2})
    cluster.begin("c", "n4")
    assert cluster.broken == ["S6"]


def test_s6_commanded_to_the_incarnation_before(cluster: History) -> None:
    cluster.command("n4", "start", **_owned(cluster))
    cluster.cut("n4")
    cluster.join("n4")
    cluster.begin("c", "n4")
    assert cluster.broken == ["S6"]


def test_s6_commanded_in_a_term_that_is_over(cluster: History) -> None:
    cluster.command("n4", "start", **_owned(cluster))
    cluster.term = 2
    cluster.report("n4", "heartbeat", sequence=1)
    cluster.at += 1
    told_at = cluster.at
    cluster.begin("c", "n4")
    assert cluster.broken == []  # it was accepted before, and took a moment
    cluster.end("c", "n4")
    cluster.at = told_at + 60
    cluster.begin("c", "n4")
    assert cluster.broken == ["S6"]


def test_s6_an_epoch_that_the_node_released(cluster: History) -> None:
    cluster.stop("a", "n1")
    cluster.begin("a", "n1")
    assert cluster.broken == ["S6"]


@pytest.mark.parametrize("incarnation", [1, 2])
def test_s6_a_boot_that_does_not_raise_the_incarnation(cluster: History, incarnation: int) -> None:
    cluster.cut("n4")
    cluster.join("n4")  # incarnation 2
    cluster.cut("n4")
    cluster.boots["n4"], cluster.incarnation["n4"] = 3, incarnation
    cluster.register("n4")
    assert cluster.broken == ["S6"]


def test_s6_a_disk_that_went_back_is_a_fault_and_not_evacs(cluster: History) -> None:
    cluster.cut("n4")
    cluster.oracle.fault("C", "restore", cluster.at)
    cluster.boots["n4"] = 2
    cluster.register("n4")
    assert cluster.broken == []


def test_s6_the_same_boot_may_raise_it_again_and_say_so_again(cluster: History) -> None:
    cluster.incarnation["n4"] = 2
    cluster.register("n4")
    cluster.register("n4")
    assert cluster.broken == []


# -- S7 --------------------------------------------------------------------------------------------


def _starting(cluster: History) -> dict[str, Any]:
    about = _owned(cluster)
    cluster.command("n4", "start", **about)
    cluster.status("c", "starting", "n4", epoch=1, run=1)
    cluster.commit()
    cluster.begin("c", "n4")
    return about


def test_s7_running_without_a_report(cluster: History) -> None:
    _starting(cluster)
    cluster.status("c", "running", "n4", epoch=1, run=1)
    cluster.commit()
    assert cluster.broken == ["S7"]


@pytest.mark.parametrize(
    ("node", "stale"),
    [
        ("n4", {"run": 2}),
        ("n4", {"epoch": 2}),
        ("n4", {"term": 2}),
        ("n4", {"incarnation": 2}),
        ("n3", {}),
    ],
)
def test_s7_running_by_a_report_that_does_not_match(
    cluster: History, node: str, stale: dict[str, int]
) -> None:
    about = {**_starting(cluster), **stale}
    cluster.report(node, "started", **about)
    cluster.status("c", "running", "n4", epoch=1, run=1)
    cluster.commit()
    assert cluster.broken == ["S7"]


def test_s7_running_by_an_inventory(cluster: History) -> None:
    about = {**_starting(cluster), "running": True}
    cluster.report("n4", "inventory", domains=[about], exited=[], released={})
    cluster.status("c", "running", "n4", epoch=1, run=1)
    cluster.commit()
    assert cluster.broken == []


def test_s7_ended_without_a_report(cluster: History) -> None:
    cluster.end("a", "n1")
    cluster.status("a", "exited", "n1", epoch=1, run=1)
    cluster.commit()
    assert cluster.broken == ["S7"]


def test_s7_ended_by_a_report_and_by_an_inventory(cluster: History) -> None:
    cluster.end("a", "n1")
    cluster.report("n1", "exited", instance_id=instance_id("a"), epoch=1, run=1, reason="crashed")
    cluster.status("a", "exited", "n1", epoch=1, run=1)
    cluster.commit()
    cluster.end("b", "n2")
    cluster.report("n2", "inventory", domains=[], exited=[], released={})
    cluster.status("b", "exited", "n2", epoch=1, run=1)
    cluster.commit()
    assert cluster.broken == []


@pytest.mark.parametrize("said", [None, {"epoch": 0}, {"incarnation": 2}, {"term": 2}])
def test_s7_a_release_that_its_owner_did_not_report(
    cluster: History, said: dict[str, int] | None
) -> None:
    cluster.end("a", "n1")
    if said is not None:
        about = {"instance_id": instance_id("a"), "epoch": 1, "reason": "commanded", **said}
        cluster.report("n1", "stopped", **about)
    cluster.release("a", 1, "n1")
    cluster.commit()
    assert cluster.broken == ["S7"]


def test_s7_a_release_by_an_inventorys_tombstone(cluster: History) -> None:
    cluster.end("a", "n1")
    tombs = {instance_id("a"): 1}
    cluster.report("n1", "inventory", domains=[], exited=[], released=tombs)
    cluster.release("a", 1, "n1")
    cluster.commit()
    assert cluster.broken == []


def test_s7_recorded_for_a_node_that_does_not_own_it(cluster: History) -> None:
    about = {"instance_id": instance_id("a"), "epoch": 1, "run": 1}
    cluster.report("n4", "started", **about)
    cluster.status("a", "running", "n4", epoch=1, run=1)
    cluster.commit()
    assert cluster.broken == ["S7"]
