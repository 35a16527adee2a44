"""Each safety invariant: the history that breaks it is found, by that one and by no other."""

from __future__ import annotations

import pytest

from tests.unit.lab.oracle.history import NODES, History, instance_id, node_id


def test_a_whole_clean_life_breaks_nothing(cluster: History) -> None:
    """Starts, a stop, a restart in a new epoch, a power cut, a fencing, an evacuation, a return."""
    cluster.at = 100.0
    release = cluster.stop("b", "n2")
    cluster.launch("b", "n2", 2, proof_release_id=release)
    cluster.beat(200.0)
    cluster.cut("n1", "a")
    cluster.at += 20
    proof = cluster.fence("n1")
    cluster.launch("a", "n3", 2, proof_node_id=proof)
    cluster.beat(cluster.at + 60)
    cluster.join("n1")
    cluster.beat(cluster.at + 60)
    statistics = cluster.finish(calm=True)

    assert cluster.broken == []
    assert statistics.starts == 4
    assert statistics.power_cuts == 1
    assert statistics.faults == {("C", "power"): 1}
    assert list(statistics.restart_times_s) == pytest.approx([23.0])
    assert statistics.restart_p95_s == pytest.approx(23.0)


# -- S1, S2 ----------------------------------------------------------------------------------------


def test_s1_two_nodes_execute_one_instance(cluster: History) -> None:
    cluster.report("n1", "stopped", instance_id=instance_id("a"), epoch=1, reason="commanded")
    release = cluster.release("a", 1, "n1")  # n1 lies: it still executes there
    cluster.commit()
    cluster.own("a", 2, "n3", proof_release_id=release)
    cluster.commit()
    cluster.command("n3", "start", instance_id=instance_id("a"), epoch=2, run=1)
    assert cluster.broken == []
    cluster.begin("a", "n3", 2)
    assert cluster.broken == ["S1"]
    (violation,) = cluster.oracle.violations
    assert (violation.node, violation.instance) == ("n3", instance_id("a"))
    assert "a executes on n1 (epoch 1, run 1) and on n3 (epoch 2, run 1)" in str(violation)


def test_s1_one_after_the_other_is_no_double_run(cluster: History) -> None:
    release = cluster.stop("a", "n1")
    cluster.launch("a", "n3", 2, proof_release_id=release)
    assert cluster.broken == []


def test_s2_execution_that_the_ledger_gave_to_another_node(cluster: History) -> None:
    release = cluster.stop("a", "n1")
    cluster.own("a", 2, "n3", proof_release_id=release)
    cluster.commit()
    cluster.command("n4", "start", instance_id=instance_id("a"), epoch=2, run=1)
    cluster.begin("a", "n4", 2)
    assert cluster.broken == ["S2"]


def test_s2_execution_before_its_row_is_committed(cluster: History) -> None:
    cluster.declare("c")
    cluster.command("n4", "start", instance_id=instance_id("c"), epoch=1, run=1)
    cluster.begin("c", "n4", 1)
    assert cluster.broken == ["S2"]


def test_s2_a_row_that_a_restore_forgot_was_committed_all_the_same(cluster: History) -> None:
    cluster.declare("c")
    cluster.own("c", 1, "n4")
    cluster.commit()
    cluster.command("n4", "start", instance_id=instance_id("c"), epoch=1, run=1)
    cluster.sql.execute("DELETE FROM ownership WHERE instance_id = ?", (instance_id("c"),))
    cluster.oracle.restored(cluster.at)
    cluster.begin("c", "n4", 1)
    assert cluster.broken == []


# -- S3 --------------------------------------------------------------------------------------------


def test_s3_an_epoch_is_left_out(cluster: History) -> None:
    release = cluster.stop("a", "n1")
    cluster.own("a", 3, "n3", proof_release_id=release)
    cluster.commit()
    assert cluster.broken == ["S3"]


def test_s3_no_proof(cluster: History) -> None:
    cluster.own("a", 2, "n3")
    cluster.commit()
    assert cluster.broken == ["S3"]


def test_s3_two_proofs(cluster: History) -> None:
    release = cluster.stop("a", "n1")
    cluster.cut("n1")
    proof = cluster.fence("n1")
    cluster.own("a", 2, "n3", proof_release_id=release, proof_node_id=proof)
    cluster.commit()
    assert cluster.broken == ["S3"]


def test_s3_the_proof_of_another_nodes_death(cluster: History) -> None:
    cluster.cut("n4")
    cluster.own("a", 2, "n3", proof_node_id=cluster.fence("n4"))
    cluster.commit()
    assert cluster.broken == ["S3"]


def test_s3_the_proof_of_an_older_incarnations_death(cluster: History) -> None:
    cluster.join("n4")
    cluster.declare("c")
    cluster.launch("c", "n4")
    (proof,) = cluster.sql.execute(
        "SELECT id FROM proof_node WHERE node_id = ?", (node_id("n4"),)
    ).fetchone()
    cluster.own("c", 2, "n3", proof_node_id=proof)
    cluster.commit()
    assert cluster.broken == ["S3"]


def test_s3_a_proof_that_is_older_than_what_it_ends(cluster: History) -> None:
    cluster.cut("n4")
    proof = cluster.fence("n4")
    cluster.declare("c")
    cluster.own("c", 1, "n4")
    cluster.commit()
    cluster.own("c", 2, "n3", proof_node_id=proof)
    cluster.commit()
    assert cluster.broken == ["S3"]


def test_s3_a_release_of_another_epoch(cluster: History) -> None:
    first = cluster.stop("a", "n1")
    cluster.launch("a", "n1", 2, proof_release_id=first)
    cluster.own("a", 3, "n3", proof_release_id=first)
    cluster.commit()
    assert cluster.broken == ["S3"]


def test_s3_a_first_epoch_with_a_proof(cluster: History) -> None:
    release = cluster.stop("a", "n1")
    cluster.declare("c")
    cluster.own("c", 1, "n3", proof_release_id=release)
    cluster.commit()
    assert cluster.broken == ["S3"]


def test_s3_a_row_is_rewritten(cluster: History) -> None:
    where = f"instance_id = '{instance_id('b')}'"
    cluster.update("ownership", where, node_id=node_id("n4"))
    cluster.beat(20.0)
    assert cluster.broken == ["S3"]


def test_s3_a_rising_run_rewrites_nothing(cluster: History) -> None:
    cluster.update("ownership", f"instance_id = '{instance_id('b')}'", run=2)
    cluster.beat(20.0)
    assert cluster.broken == []


def _adopt(cluster: History) -> None:
    cluster.declare("c")
    cluster.own("c", 4, "n4", proof_adoption_id=cluster.new_id())
    cluster.commit()


def test_s3_an_adoption_without_a_database_that_went_back(cluster: History) -> None:
    _adopt(cluster)
    assert cluster.broken == ["S3"]


def test_s3_an_adoption_after_a_restore(cluster: History) -> None:
    cluster.oracle.restored(cluster.at)
    _adopt(cluster)
    assert cluster.broken == []


# -- S4, S5, S13 -----------------------------------------------------------------------------------


def test_s4_a_node_is_proven_dead_while_it_executes(cluster: History) -> None:
    cluster.proof("n1", 1)
    cluster.commit()
    assert cluster.broken == ["S4"]
    assert "incarnation 1 of n1 is proven dead (power)" in str(cluster.oracle.violations[0])


def test_s4_a_guest_begins_in_an_incarnation_that_is_proven_dead(cluster: History) -> None:
    cluster.declare("c")
    cluster.own("c", 1, "n4")
    cluster.commit()
    cluster.command("n4", "start", instance_id=instance_id("c"), epoch=1, run=1)
    cluster.proof("n4", 1, "operator")
    cluster.commit()
    cluster.begin("c", "n4")
    assert cluster.broken == ["S4"]


def test_s4_fenced_without_a_proof(cluster: History) -> None:
    cluster.state("n1", "fenced")
    cluster.commit()
    assert cluster.broken == ["S4"]


def test_s4_is_remembered_over_a_restore(cluster: History) -> None:
    cluster.cut("n4")
    cluster.fence("n4")
    cluster.sql.execute("DELETE FROM proof_node")
    cluster.state("n4", "up")
    cluster.oracle.restored(cluster.at)
    cluster.declare("c")
    cluster.own("c", 1, "n4")
    cluster.commit()
    cluster.command("n4", "start", instance_id=instance_id("c"), epoch=1, run=1)
    cluster.begin("c", "n4")
    assert cluster.broken == ["S4"]


def test_s4_the_next_incarnation_may_execute(cluster: History) -> None:
    cluster.cut("n1", "a")
    proof = cluster.fence("n1")
    cluster.join("n1")
    cluster.launch("a", "n1", 2, proof_node_id=proof)
    assert cluster.broken == []


@pytest.mark.parametrize("state", ["fencing", "blocked", "fenced"])
def test_s5_a_start_is_issued_to_a_node_that_is_cut_off(cluster: History, state: str) -> None:
    cluster.cut("n4")
    cluster.state("n4", state)
    cluster.event("node.blocked", "n4", alarm=True)
    cluster.commit()
    assert cluster.broken == []
    cluster.command("n4", "start", instance_id=instance_id("a"), epoch=1, run=1)
    assert cluster.broken == ["S5"]


@pytest.mark.parametrize(
    ("state", "allowed", "proven_dead", "broken"),
    [
        ("fencing", {}, False, ["S5"]),
        ("fencing", {}, True, ["S5"]),
        ("blocked", {}, False, ["S5"]),
        ("fenced", {}, False, ["S5"]),
        ("fenced", {instance_id("a"): 1}, True, ["S5"]),
        ("fenced", {}, True, []),  # `fenced_node_alive`: it keeps nothing
        ("joining", {}, False, []),
    ],
)
def test_s5_sessions_to_a_node_that_is_cut_off(
    cluster: History, state: str, allowed: dict[str, int], proven_dead: bool, broken: list[str]
) -> None:
    cluster.cut("n4")
    cluster.state("n4", state)
    cluster.event("node.blocked", "n4", alarm=True)
    cluster.commit()
    cluster.command("n4", "session", allowed=allowed, superseded={}, proven_dead=proven_dead)
    assert cluster.broken == broken


def test_s5_a_later_life_is_asked_to_register(cluster: History) -> None:
    cluster.cut("n4")
    cluster.state("n4", "fenced")
    cluster.commit()
    earlier = cluster.incarnation["n4"]
    cluster.incarnation["n4"] = earlier + 1
    cluster.report("n4", "heartbeat")
    cluster.command("n4", "session", incarnation=earlier, allowed={}, superseded={})
    assert cluster.broken == []
    cluster.command("n4", "session", incarnation=earlier + 1, allowed={}, superseded={})
    assert cluster.broken == ["S5"]


def test_s13_a_start_while_recovering(cluster: History) -> None:
    cluster.flags(recovering=1)
    cluster.commit()
    cluster.command("n4", "stop", instance_id=instance_id("a"), epoch=1, grace_s=1.0)
    assert cluster.broken == []
    cluster.command("n4", "start", instance_id=instance_id("a"), epoch=1, run=1)
    assert cluster.broken == ["S13"]


def test_s13_a_fencing_while_recovering(cluster: History) -> None:
    cluster.flags(recovering=1)
    cluster.cut("n4")
    cluster.state("n4", "fencing")
    cluster.commit()
    assert cluster.broken == ["S13"]


# -- S9 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["instance_spec", "instance_status"])
def test_s9_a_record_goes_while_its_node_owns_the_instance(cluster: History, table: str) -> None:
    column = "id" if table == "instance_spec" else "instance_id"
    cluster.sql.execute(f"DELETE FROM {table} WHERE {column} = ?", (instance_id("a"),))
    cluster.commit()
    assert cluster.broken == ["S9"]


def test_s9_a_record_goes_after_the_release_or_the_death(cluster: History) -> None:
    cluster.stop("a", "n1")
    cluster.cut("n2", "b")
    cluster.fence("n2")
    for table, column in (("instance_spec", "id"), ("instance_status", "instance_id")):
        cluster.sql.execute(f"DELETE FROM {table} WHERE {column} IS NOT NULL")
    cluster.commit()
    assert cluster.broken == []


# -- S12 -------------------------------------------------------------------------------------------


def test_s12_the_only_living_copy_is_destroyed(cluster: History) -> None:
    cluster.command("n1", "destroy", instance_id=instance_id("a"), epoch=1)
    cluster.end("a", "n1")
    cluster.beat(cluster.at + 2)
    assert cluster.broken == ["S12"]


def test_s12_a_session_calls_the_only_living_copy_superseded(cluster: History) -> None:
    superseded = {instance_id("a"): 1}
    cluster.command("n1", "session", allowed={}, superseded=superseded, proven_dead=False)
    cluster.end("a", "n1")
    cluster.beat(cluster.at + 2)
    assert cluster.broken == ["S12"]


def _lower(cluster: History) -> None:
    cluster.command("n1", "destroy", instance_id=instance_id("a"), epoch=0)


def _asked(cluster: History) -> None:
    cluster.command("n1", "stop", instance_id=instance_id("a"), epoch=1, grace_s=1.0)
    cluster.command("n1", "destroy", instance_id=instance_id("a"), epoch=1)


def _halted(cluster: History) -> None:
    where = f"id = '{instance_id('a')}'"
    cluster.update("instance_spec", where, run_strategy="Halted", generation=2)
    cluster.command("n1", "destroy", instance_id=instance_id("a"), epoch=1)


@pytest.mark.parametrize("prepare", [_lower, _asked, _halted])
def test_s12_ends_that_are_no_destruction(cluster: History, prepare: object) -> None:
    assert callable(prepare)
    prepare(cluster)
    cluster.end("a", "n1")
    cluster.beat(cluster.at + 2)
    assert cluster.broken == []


def test_s12_a_power_cut_or_a_crash_beside_a_destroy_is_not_its_doing(cluster: History) -> None:
    for instance, node in (("a", "n1"), ("b", "n2")):
        cluster.command(node, "destroy", instance_id=instance_id(instance), epoch=1)
    cluster.cut("n1", "a")
    cluster.oracle.fault("V", "crash", cluster.at)
    cluster.end("b", "n2")
    cluster.beat(cluster.at + 2)
    assert cluster.broken == []


def test_s12_another_copy_lives(cluster: History) -> None:
    release = cluster.stop("a", "n1")
    cluster.launch("a", "n3", 2, proof_release_id=release)
    cluster.begin("a", "n1")  # two copies: S1, S6
    cluster.command("n1", "destroy", instance_id=instance_id("a"), epoch=1)
    cluster.end("a", "n1")
    cluster.beat(cluster.at + 2)
    assert cluster.broken == ["S1", "S6"]


def test_no_node_is_forgotten_by_these_tests(cluster: History) -> None:
    """The history is what it says it is: else a test above might pass for want of a cluster."""
    (up,) = cluster.sql.execute("SELECT count(*) FROM node_state WHERE state = 'up'").fetchone()
    assert up == len(NODES)
    assert cluster.broken == []
