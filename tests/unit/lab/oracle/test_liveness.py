"""Each promise of progress: the history that breaks it is found, by that one and by no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac_lab.oracle import Oracle, Timings
from tests.unit.lab.oracle.history import History, instance_id, node_id

TIMINGS = Timings()


# -- L1 --------------------------------------------------------------------------------------------


def test_l1_it_executes_nowhere(cluster: History) -> None:
    cluster.at += 60
    cluster.stop("a", "n1")
    cluster.finish(calm=True)
    assert cluster.broken == ["L1"]


@pytest.mark.parametrize(
    ("lived_s", "ago_s", "broken"), [(1, 200, []), (1, 310, ["L1"]), (100, 200, ["L1"])]
)
def test_l1_a_guest_that_falls_at_once_is_paused_before_its_next_start(
    cluster: History, lived_s: float, ago_s: float, broken: list[str]
) -> None:
    cluster.end("a", "n1")
    cluster.begin("a", "n1")
    cluster.at += lived_s
    cluster.end("a", "n1")
    cluster.at += ago_s
    cluster.finish(calm=True)
    assert cluster.broken == broken


def test_l1_is_promised_only_when_all_is_calm(cluster: History) -> None:
    cluster.stop("a", "n1")
    cluster.finish(calm=False)
    assert cluster.broken == []


def test_l1_a_recovery_waits_for_no_node_that_is_off(cluster: History) -> None:
    cluster.at += 60
    cluster.stop("a", "n1")
    cluster.flags(recovering=1)
    cluster.cut("n4")
    cluster.state("n4", "blocked")
    cluster.event("node.blocked", "n4", alarm=True)
    cluster.commit()
    cluster.finish(calm=True)
    assert cluster.broken == ["L1"]


@pytest.mark.parametrize("excuse", ["halted", "blocked", "storm", "no room", "recovery waits"])
def test_l1_is_promised_where_something_can_be_done(cluster: History, excuse: str) -> None:
    cluster.cut("n1", "a")
    where = f"id = '{instance_id('a')}'"
    match excuse:
        case "halted":
            cluster.update("instance_spec", where, run_strategy="Halted", generation=2)
        case "blocked":
            cluster.state("n1", "blocked")
            cluster.event("node.blocked", "n1", alarm=True)
        case "storm":
            cluster.state("n1", "suspect")
            cluster.flags(storm=1)
        case "recovery waits":
            cluster.flags(recovering=1)
            cluster.state("n4", "blocked")
            cluster.event("node.blocked", "n4", alarm=True)
        case "no room":
            manifest = '{"vcpus": 1, "memory_mib": 8193}'
            cluster.update("instance_spec", where, manifest=manifest, generation=2)
    cluster.finish(calm=True)
    assert cluster.broken == []


def test_l1_it_is_recorded_elsewhere(cluster: History) -> None:
    cluster.end("b", "n2")
    cluster.at += 1
    cluster.begin("b", "n2")
    cluster.sql.execute(
        "UPDATE instance_status SET phase = 'pending' WHERE instance_id = ?", (instance_id("b"),)
    )
    cluster.finish(calm=True)
    assert cluster.broken == ["L1"]
    assert "its status is pending" in str(cluster.oracle.violations[0])


def test_l1_it_executes_twice(cluster: History) -> None:
    cluster.begin("b", "n3")  # that is S1, S2 and S6 as well
    cluster.finish(calm=True)
    assert cluster.broken == ["L1", "S1", "S2", "S6"]


# -- L2 --------------------------------------------------------------------------------------------


def _cut_at(cluster: History, at_s: float, back_after_s: float | None) -> None:
    cluster.at = at_s
    cluster.cut("n1", "a")
    proof = cluster.fence("n1")
    if back_after_s is not None:
        cluster.at = at_s + back_after_s - 1
        cluster.launch("a", "n3", 2, proof_node_id=proof)
    cluster.at = at_s + 200
    cluster.finish(calm=False)


@pytest.mark.parametrize("back_after_s", [60.0, None])
def test_l2_a_restart_is_late_or_never_comes(cluster: History, back_after_s: float | None) -> None:
    _cut_at(cluster, 200.0, back_after_s)
    assert cluster.broken == ["L2"]


def test_l2_a_restart_in_time(cluster: History) -> None:
    _cut_at(cluster, 200.0, 40.0)
    assert cluster.broken == []


def test_l2_counts_from_the_end_of_the_hold_off(cluster: History) -> None:
    _cut_at(cluster, 20.0, 60.0)
    assert cluster.broken == []


def test_l2_is_promised_for_one_clean_cut(cluster: History) -> None:
    cluster.oracle.fault("B", "lose", cluster.at)
    _cut_at(cluster, 200.0, None)
    assert cluster.broken == []


@pytest.mark.parametrize(
    ("needs", "broken"),
    [
        ('"vcpus": 8, "memory_mib": 8192', ["L2"]),
        ('"vcpus": 9, "memory_mib": 512', []),
        ('"vcpus": 1, "memory_mib": 8193', []),
        ('"vcpus": 1, "memory_mib": 512, "nics": [{"bridge": "br9"}]', []),
        ('"vcpus": 1, "memory_mib": 512, "disks": [{"pool": "p1"}]', []),
        ('"vcpus": 1, "memory_mib": 512, "node_selector": {"zone": "b"}', []),
    ],
)
def test_l2_is_promised_where_there_is_room(
    cluster: History, needs: str, broken: list[str]
) -> None:
    where = f"id = '{instance_id('a')}'"
    cluster.update("instance_spec", where, manifest=f"{{{needs}}}", generation=2)
    cluster.commit()
    _cut_at(cluster, 200.0, None)
    assert cluster.broken == broken


def test_l2_more_instances_may_take_more_waves() -> None:
    assert TIMINGS.restart_s(7, 3) > TIMINGS.restart_s(6, 3) == TIMINGS.restart_s(1, 3)
    assert TIMINGS.restart_s(20, 10) <= 45.0


# -- L3 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [("B", "off"), ("B", "alarm"), ("D", "off"), ("M", "kill"), ("S", "hang"), ("A", "kill")],
)
def test_l3_a_fencing_when_only_the_control_plane_was_away(
    cluster: History, fault: tuple[str, str]
) -> None:
    cluster.oracle.fault(*fault, cluster.at)
    cluster.state("n3", "fencing")
    cluster.commit()
    assert cluster.broken == ["L3"]
    assert " ".join(fault) in str(cluster.oracle.violations[0])


@pytest.mark.parametrize("fault", [("W", "off"), ("C", "kill"), ("B", "lose"), ("V", "hang")])
def test_l3_a_fencing_after_a_node_was_touched(cluster: History, fault: tuple[str, str]) -> None:
    cluster.oracle.fault(*fault, cluster.at)
    cluster.state("n3", "fencing")
    cluster.commit()
    assert cluster.broken == []


def test_l3_a_daemon_that_ended_touches_its_node(cluster: History) -> None:
    cluster.oracle.process("monitor-1", "killed", cluster.at)
    cluster.oracle.process("compute@n3", "stopped", cluster.at)
    cluster.state("n3", "fencing")
    cluster.commit()
    assert cluster.broken == []


def test_l3_an_operator_may_fence_whom_he_likes(cluster: History) -> None:
    cluster.state("n3", "fencing", actor="alice")
    cluster.commit()
    assert cluster.broken == []


# -- L4 --------------------------------------------------------------------------------------------


def test_l4_a_fencing_has_no_end(cluster: History) -> None:
    cluster.fencing("n4")
    cluster.beat(cluster.at + TIMINGS.fencing_s() - 6)
    assert cluster.broken == []
    cluster.beat(cluster.at + 20)
    assert cluster.broken == ["L4"]


@pytest.mark.parametrize("ended", ["fenced", "blocked", "joining"])
def test_l4_a_fencing_that_ended(cluster: History, ended: str) -> None:
    cluster.fencing("n4")
    cluster.beat(cluster.at + 20)
    cluster.state("n4", ended)
    cluster.event("node.blocked", "n4", alarm=True)
    cluster.commit()
    cluster.beat(cluster.at + 300)
    assert cluster.broken == []


@pytest.mark.parametrize("what", ["killed", "hung"])
def test_l4_without_a_monitor_time_does_not_count(cluster: History, what: str) -> None:
    cluster.fencing("n4")
    cluster.oracle.process("monitor-1", what, cluster.at)
    cluster.beat(cluster.at + 300)
    cluster.oracle.process("monitor-1", "started", cluster.at)
    cluster.state("n4", "blocked")
    cluster.event("node.blocked", "n4", alarm=True)
    cluster.commit()
    cluster.beat(cluster.at + 20)
    assert cluster.broken == []


def test_l4_without_a_database_time_does_not_count(cluster: History) -> None:
    cluster.fencing("n4")
    cluster.oracle.fault("D", "off", cluster.at)
    for _ in range(100):
        cluster.at += 3
        cluster.report("n3", "heartbeat", sequence=1)
    cluster.state("n4", "fenced")
    cluster.commit()
    assert cluster.broken == []


@pytest.mark.parametrize(
    ("node", "alarm", "broken"), [("n4", True, []), ("n4", False, ["L4"]), ("n3", True, ["L4"])]
)
def test_l4_a_blocked_node_is_alarmed(
    cluster: History, node: str, alarm: bool, broken: list[str]
) -> None:
    cluster.fencing("n4")
    cluster.state("n4", "blocked")
    cluster.event("node.blocked", node, alarm=alarm)
    cluster.commit()
    assert cluster.broken == broken


# -- L6 --------------------------------------------------------------------------------------------


def _lose_status(cluster: History) -> None:
    cluster.stop("a", "n1")
    cluster.sql.execute("DELETE FROM instance_status WHERE instance_id = ?", (instance_id("a"),))
    cluster.commit()


def _lose_death(cluster: History) -> None:
    cluster.cut("n1", "a")
    cluster.fence("n1")


def _lose_release(cluster: History) -> None:
    cluster.stop("a", "n1")
    cluster.status("a", "stopped")
    cluster.commit()


@pytest.mark.parametrize("lose", [_lose_status, _lose_death, _lose_release])
def test_l6_it_should_run_and_is_nobodys_work(cluster: History, lose: object) -> None:
    assert callable(lose)
    lose(cluster)
    cluster.beat(cluster.at + 15)
    assert cluster.broken == []
    cluster.beat(cluster.at + 20)
    assert cluster.broken == ["L6"]


@pytest.mark.parametrize(
    "excuse", ["pending", "halted", "no scheduler", "no way", "slow", "recovering"]
)
def test_l6_not_running_and_still_attended(cluster: History, excuse: str) -> None:
    _lose_death(cluster)
    match excuse:
        case "pending":
            cluster.status("a", "pending")
        case "halted":
            where = f"id = '{instance_id('a')}'"
            cluster.update("instance_spec", where, run_strategy="Halted", generation=2)
        case "no scheduler":
            cluster.oracle.process("scheduler-1", "killed", cluster.at)
        case "slow":
            cluster.oracle.fault("D", "slow", cluster.at)
        case "no way":
            cluster.oracle.reach("scheduler-1", "database", False, cluster.at)
        case "recovering":
            cluster.flags(recovering=1)
    cluster.commit()
    cluster.beat(cluster.at + 60)
    assert cluster.broken == []


def test_l6_the_schedulers_time_begins_when_it_reaches_the_database_again(cluster: History) -> None:
    _lose_death(cluster)
    cluster.oracle.reach("scheduler-1", "database", False, cluster.at)
    cluster.beat(cluster.at + 60)
    cluster.oracle.reach("scheduler-1", "database", True, cluster.at)
    cluster.beat(cluster.at + 15)
    assert cluster.broken == []
    cluster.beat(cluster.at + 20)
    assert cluster.broken == ["L6"]


def test_l6_the_time_begins_when_the_database_is_well_again(cluster: History) -> None:
    _lose_death(cluster)
    cluster.oracle.fault("D", "slow", cluster.at)
    cluster.beat(cluster.at + 60)
    cluster.oracle.well("D", cluster.at)
    cluster.beat(cluster.at + 15)
    assert cluster.broken == []
    cluster.beat(cluster.at + 20)
    assert cluster.broken == ["L6"]


def test_l6_recorded_as_running_where_it_does_not_execute(cluster: History) -> None:
    cluster.oracle.fault("V", "lost", cluster.at)
    cluster.end("a", "n1")
    cluster.beat(cluster.at + 60)
    assert cluster.broken == []  # the next inventories may still say so
    cluster.beat(cluster.at + 200)
    assert cluster.broken == ["L6"]


def test_l6_its_node_is_somebodys_work(cluster: History) -> None:
    cluster.oracle.fault("V", "hang", cluster.at)
    cluster.state("n1", "degraded")
    cluster.end("a", "n1")
    cluster.beat(cluster.at + 300)
    assert cluster.broken == []


# -- the oracle itself -----------------------------------------------------------------------------


def test_a_database_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    oracle = Oracle(tmp_path / "none.sqlite")
    oracle.committed(1.0)
    oracle.process("monitor-1", "started", 2.0)
    statistics = oracle.finish(3600.0, calm=True)
    assert oracle.violations == []
    assert statistics.node_hours == 0.0
    assert statistics.restart_p95_s is None


def test_an_end_without_a_beginning_is_the_witnesss_error(cluster: History) -> None:
    with pytest.raises(LookupError, match="never began"):
        cluster.end("a", "n4")


def test_what_is_told_after_the_end_is_not_judged(cluster: History) -> None:
    cluster.sql.execute("DELETE FROM instance_spec")
    cluster.oracle.close()
    cluster.commit()
    cluster.oracle.restored(cluster.at)
    cluster.begin("a", "n3")
    cluster.end("b", "n4")
    cluster.oracle.booted("n4", cluster.at)
    cluster.oracle.powered_off("n4", cluster.at)
    cluster.oracle.fault("B", "off", cluster.at)
    cluster.oracle.process("scheduler-1", "killed", cluster.at)
    cluster.report("n4", "heartbeat", sequence=1)
    assert cluster.broken == []


def test_statistics_of_a_run(cluster: History) -> None:
    cluster.oracle.fault("B", "lose", cluster.at)
    cluster.oracle.fault("B", "lose", cluster.at)
    proof = cluster.proof("n4", 0)
    cluster.row("evacuation", id="e", node_id=node_id("n4"), proof_id=proof, state="done")
    cluster.commit()
    cluster.oracle.restored(cluster.at)
    cluster.row("evacuation", id="f", node_id=node_id("n3"), proof_id=proof, state="done")
    began_s = 1.0  # every node of the cluster booted then
    cluster.at = began_s + 1800
    statistics = cluster.finish()
    assert statistics.faults == {("B", "lose"): 2}
    assert statistics.evacuations_done == 2
    assert statistics.node_hours == pytest.approx(2.0)
    assert cluster.broken == []


def test_the_times_of_a_profile_and_a_scenarios_own() -> None:
    settings = {"monitor.fence_after_s": 7.5, "scheduler.starts_total": 3, "api.port": 80}
    timings = Timings.of("fast", settings)
    assert (timings.fence_after_s, timings.starts_total) == (7.5, 3)
    assert timings.suspect_after_s == 2.0
    assert Timings.of("default") == Timings()


def test_blast_limit_is_at_least_one() -> None:
    assert [TIMINGS.blast_limit(nodes) for nodes in (1, 3, 5, 6, 9, 100)] == [1, 1, 1, 2, 3, 34]
