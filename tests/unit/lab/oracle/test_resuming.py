"""L5: a controller that starts again takes up what is open. What breaks it, and what excuses."""

from __future__ import annotations

from typing import Any

import pytest

from evac_lab.oracle import Timings
from tests.unit.lab.oracle.history import History, instance_id, node_id

TIMINGS = Timings()


def _item(cluster: History, state: str, target: str | None = None, **columns: Any) -> None:
    """`a`'s node died, its evacuation is open, and the scheduler is killed and starts again."""
    cluster.at = 100.0
    cluster.cut("n1", "a")
    proof = cluster.fence("n1")
    cluster.row("evacuation", id="e", node_id=node_id("n1"), proof_id=proof, state="open")
    cluster.row(
        "evacuation_item",
        evacuation_id="e",
        instance_id=instance_id("a"),
        state=state,
        target_node_id=target and node_id(target),
        **columns,
    )
    cluster.status("a", "starting" if state == "starting" else "pending")
    if state == "starting":
        cluster.own("a", 2, "n3", proof_node_id=proof)
    cluster.commit()
    cluster.oracle.process("scheduler-1", "killed", cluster.at)
    cluster.oracle.process("scheduler-1", "started", cluster.at + 1)
    cluster.at += 1


@pytest.mark.parametrize(
    ("state", "target"), [("pending", None), ("reserved", "n3"), ("starting", "n3")]
)
def test_l5_an_open_item_is_left_lying(cluster: History, state: str, target: str | None) -> None:
    _item(cluster, state, target)
    cluster.beat(cluster.at + 10)
    assert cluster.broken == []
    cluster.beat(cluster.at + 15)
    assert cluster.broken == ["L5"]
    assert "scheduler-1 started" in str(cluster.oracle.violations[0])


def test_l5_items_that_are_taken_up(cluster: History) -> None:
    _item(cluster, "reserved", "n3")
    cluster.update("evacuation_item", "evacuation_id = 'e'", state="starting")
    cluster.commit()
    cluster.beat(cluster.at + 30)
    assert cluster.broken == []


def test_l5_an_item_for_which_there_is_no_place_was_planned(cluster: History) -> None:
    _item(cluster, "pending")
    cluster.update("planning_lock", "id = 1", planned_at="2026-01-01 00:02:00")
    cluster.commit()
    cluster.beat(cluster.at + 30)
    assert cluster.broken == []


def test_l5_a_start_that_is_commanded_waits_for_its_answer(cluster: History) -> None:
    _item(cluster, "starting", "n3")
    cluster.row("command", id="c", node_id=node_id("n3"), instance_id=instance_id("a"), sent=1)
    cluster.commit()
    cluster.beat(cluster.at + 30)
    assert cluster.broken == []


@pytest.mark.parametrize("excuse", ["back-off", "target", "killed again", "database", "full"])
def test_l5_items_that_may_wait(cluster: History, excuse: str) -> None:
    if excuse == "back-off":
        _item(cluster, "pending", next_at="2026-01-01 00:05:00")
    else:
        _item(cluster, "reserved", "n3")
    match excuse:
        case "target":
            cluster.state("n3", "suspect")
            cluster.commit()
        case "killed again":
            cluster.oracle.process("scheduler-1", "killed", cluster.at)
        case "database":
            cluster.oracle.fault("D", "slow", cluster.at + 1)
        case "full":
            for name in ("x", "y"):
                cluster.status(name, "starting", "n3", epoch=1, run=1)
            cluster.commit()
    cluster.beat(cluster.at + 40)
    assert cluster.broken == []


@pytest.mark.parametrize("state", ["pending", "starting"])
def test_l5_no_pause_lasts_for_ever(cluster: History, state: str) -> None:
    """Whatever moment is written: a wall clock may have been set back since."""
    _item(cluster, state, "n3", next_at="2099-01-01 00:00:00")
    cluster.update(
        "instance_status", f"instance_id = '{instance_id('a')}'", next_at="2099-01-01 00:00:00"
    )
    cluster.commit()
    cluster.beat(cluster.at + TIMINGS.backoff_max_s)
    cluster.oracle.process("scheduler-1", "killed", cluster.at)
    cluster.oracle.process("scheduler-1", "started", cluster.at)
    cluster.beat(cluster.at + 14)
    assert cluster.broken == []
    cluster.beat(cluster.at + 16)
    assert cluster.broken == ["L5"]


@pytest.mark.parametrize(("others", "broken"), [(("x", "y"), []), (("x",), ["L5"])])
def test_l5_one_that_ended_waits_for_its_wave_too(
    cluster: History, others: tuple[str, ...], broken: list[str]
) -> None:
    _item(cluster, "starting", "n3")
    cluster.report("n3", "exited", instance_id=instance_id("a"), epoch=2, run=1, reason="crashed")
    cluster.status("a", "exited", "n3", epoch=2, run=1)
    for name in others:
        cluster.status(name, "starting", "n3", epoch=1, run=1)
    cluster.commit()
    cluster.beat(cluster.at + 40)
    assert cluster.broken == broken


def _left_fencing(cluster: History) -> None:
    """The monitor that tries to cut n4 off is killed, and starts again."""
    cluster.at = 100.0
    cluster.fencing("n4")
    cluster.row("fence_attempt", id="t", node_id=node_id("n4"), state="running", monitor="one")
    cluster.commit()
    cluster.oracle.process("monitor-1", "killed", cluster.at)
    cluster.oracle.process("monitor-1", "started", cluster.at)


def test_l5_a_fencing_that_nobody_goes_on_with(cluster: History) -> None:
    _left_fencing(cluster)
    cluster.beat(cluster.at + TIMINGS.resume_after_s)
    assert cluster.broken == []
    cluster.beat(cluster.at + 25)
    assert cluster.broken == ["L5"]


def test_l5_a_fencing_that_is_taken_over(cluster: History) -> None:
    _left_fencing(cluster)
    cluster.update("fence_attempt", "id = 't'", monitor="two")
    cluster.beat(cluster.at + 60)
    assert cluster.broken == []
