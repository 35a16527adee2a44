"""Stop and start, crashes, inventories, wishes: one instance on living nodes."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from evac_common.bus.port import Verdict
from evac_common.messages import commands, reports
from evac_common.messages.reports import DomainSeen, RefusalReason
from evac_common.model.states import ExitReason, NodeState, RunStrategy
from evac_common.store import placement
from tests.unit.scheduler.cluster import TERM, Cluster, id_of


async def _running(cluster: Cluster, name: str = "web-1", *nodes: str) -> commands.Start:
    for node in nodes or ("n1", "n2"):
        await cluster.node(node)
    await cluster.instance(name)
    await cluster.scheduler.sweep()
    (start,) = await cluster.take()
    assert isinstance(start, commands.Start)
    await cluster.say(cluster.started(start))
    return start


def _seen(start: commands.Start, *, running: bool = True, epoch: int | None = None) -> DomainSeen:
    return DomainSeen(
        instance_id=start.instance_id,
        epoch=epoch or start.epoch,
        run=start.run,
        running=running,
    )


def _exited(start: commands.Start, reason: ExitReason = ExitReason.CRASHED) -> reports.Exited:
    return reports.Exited(
        node_id=start.node_id,
        term=start.term,
        incarnation=start.incarnation,
        instance_id=start.instance_id,
        epoch=start.epoch,
        run=start.run,
        reason=reason,
    )


async def test_stop_and_start_give_the_next_epoch_with_the_release_as_proof(
    cluster: Cluster,
) -> None:
    start = await _running(cluster)
    await cluster.want("web-1", RunStrategy.HALTED)

    await cluster.scheduler.sweep()
    (stop,) = await cluster.take()
    assert isinstance(stop, commands.Stop)
    assert (await cluster.status("web-1"))["phase"] == "stopping"
    await cluster.say(cluster.stopped(stop))
    assert (await cluster.status("web-1"))["phase"] == "stopped"
    await cluster.want("web-1", RunStrategy.ALWAYS)
    await cluster.settle()

    assert (stop.node_id, stop.epoch, stop.grace_s) == (start.node_id, 1, 30.0)
    first, second = await cluster.ledger("web-1")
    (release,) = await cluster.rows(select(placement.proof_release))
    assert (second["epoch"], second["run"]) == (2, 1)
    assert second["proof_release_id"] == release["id"]
    assert release["node_id"] == first["node_id"]
    assert (await cluster.status("web-1"))["phase"] == "running"
    assert len(await cluster.events("instance.stopped")) == 1


async def test_a_start_wish_during_a_stop_waits_for_the_release(cluster: Cluster) -> None:
    await _running(cluster)
    await cluster.want("web-1", RunStrategy.HALTED)
    await cluster.scheduler.sweep()
    (stop,) = await cluster.take()
    await cluster.want("web-1", RunStrategy.ALWAYS)

    await cluster.scheduler.sweep()
    assert await cluster.take() == []
    assert isinstance(stop, commands.Stop)
    await cluster.say(cluster.stopped(stop))
    await cluster.settle()

    assert [row["epoch"] for row in await cluster.ledger("web-1")] == [1, 2]


async def test_halting_what_runs_on_a_dead_node_needs_no_message(cluster: Cluster) -> None:
    await _running(cluster)
    await cluster.want("web-1", RunStrategy.HALTED)
    await cluster.prove_dead("n1")

    await cluster.scheduler.sweep()

    status = await cluster.status("web-1")
    assert (status["phase"], status["reason"]) == ("stopped", "its node is proven dead")
    assert await cluster.take() == []
    assert await cluster.items() == []
    assert len(await cluster.events("instance.stopped")) == 1


async def test_halting_on_a_silent_node_waits_and_goes_on_when_it_is_back(
    cluster: Cluster,
) -> None:
    await _running(cluster)
    await cluster.node_is("n1", NodeState.SUSPECT)
    await cluster.want("web-1", RunStrategy.HALTED)

    await cluster.scheduler.sweep()
    silent = await cluster.take()
    await cluster.node_is("n1", NodeState.JOINING)
    await cluster.scheduler.sweep()
    (stop,) = await cluster.take()

    assert silent == []
    assert isinstance(stop, commands.Stop)


async def test_a_crashed_guest_starts_again_in_place_with_the_next_run(cluster: Cluster) -> None:
    start = await _running(cluster)

    await cluster.say(_exited(start))
    await cluster.scheduler.sweep()
    (again,) = await cluster.take()

    assert isinstance(again, commands.Start)
    assert (again.node_id, again.epoch, again.run) == (start.node_id, 1, 2)
    await cluster.say(cluster.started(again))
    await cluster.say(_exited(again))
    await cluster.scheduler.sweep()
    assert await cluster.take() == []
    assert (await cluster.status("web-1"))["phase"] == "exited"
    cluster.hand.at_s += 11
    await cluster.scheduler.sweep()
    (third,) = await cluster.take()
    assert isinstance(third, commands.Start)
    assert third.run == 3


async def test_late_reports_of_an_earlier_run_or_session_change_nothing(cluster: Cluster) -> None:
    start = await _running(cluster)
    await cluster.say(_exited(start))
    await cluster.scheduler.sweep()
    (again,) = await cluster.take()
    assert isinstance(again, commands.Start)

    await cluster.say(cluster.started(start))
    await cluster.say(_exited(start))
    old = cluster.started(again).model_copy(update={"term": TERM + 1})
    await cluster.say(old)

    assert (await cluster.status("web-1"))["phase"] == "starting"


async def test_a_lost_started_report_is_read_from_the_inventory(cluster: Cluster) -> None:
    await cluster.node("n1")
    await cluster.instance("web-1")
    await cluster.scheduler.sweep()
    (start,) = await cluster.take()
    assert isinstance(start, commands.Start)

    await cluster.say(cluster.inventory("n1", 1, _seen(start)))

    assert (await cluster.status("web-1"))["phase"] == "running"
    assert len(await cluster.events("instance.started")) == 1


async def test_looks_that_do_not_name_a_run_are_older_than_it_however_many(
    cluster: Cluster,
) -> None:
    """Late and doubled inventories of before the start must not end a guest that runs."""
    start = await _running(cluster)
    phases = []

    for report in (
        cluster.inventory("n1", 1),
        cluster.inventory("n1", 2),
        cluster.inventory("n1", 1),
        cluster.inventory("n1", 3, exited=[_seen(start, running=False)]),
    ):
        await cluster.say(report)
        phases.append((await cluster.status("web-1"))["phase"])
    await cluster.scheduler.sweep()
    (again,) = await cluster.take()

    assert phases == ["running"] * 3 + ["exited"]
    assert isinstance(again, commands.Start)
    assert (again.epoch, again.run) == (1, 2)


async def test_a_lost_exited_report_is_read_from_the_inventory(cluster: Cluster) -> None:
    start = await _running(cluster)

    await cluster.say(cluster.inventory("n1", 1, exited=[_seen(start, running=False)]))

    assert (await cluster.status("web-1"))["phase"] == "exited"


async def test_a_lost_stopped_report_is_read_from_the_inventory(cluster: Cluster) -> None:
    start = await _running(cluster)
    await cluster.want("web-1", RunStrategy.HALTED)
    await cluster.scheduler.sweep()

    await cluster.say(cluster.inventory("n1", 1, released={start.instance_id: 1}))

    assert (await cluster.status("web-1"))["phase"] == "stopped"
    assert len(await cluster.rows(select(placement.proof_release))) == 1


async def test_a_domain_of_a_superseded_epoch_is_destroyed_and_alarmed_once(
    cluster: Cluster,
) -> None:
    start = await _running(cluster)
    await cluster.prove_dead("n1")
    await cluster.settle()
    assert (await cluster.ledger("web-1"))[1]["node_id"] == id_of("n2")
    await cluster.node_is("n1", NodeState.UP, incarnation=2)

    for sequence in (1, 2, 3):
        await cluster.say(cluster.inventory("n1", sequence, _seen(start)))
        cluster.hand.at_s += 6
    taken = await cluster.take()

    assert {type(each) for each in taken} == {commands.Destroy}
    assert {(each.node_id, each.command_id) for each in taken} == {
        (id_of("n1"), taken[0].command_id)
    }
    assert isinstance(taken[0], commands.Destroy)
    assert taken[0].epoch == 1
    (alarm,) = await cluster.events("instance.double_run_suspected")
    assert alarm["alarm"]
    assert (await cluster.status("web-1"))["phase"] == "running"
    await cluster.say(
        reports.Destroyed(
            node_id=id_of("n1"),
            term=TERM,
            incarnation=2,
            instance_id=start.instance_id,
            epoch=1,
        )
    )
    assert await cluster.rows(select(placement.command)) == []


async def test_an_unknown_domain_is_announced_once_and_left_alone(cluster: Cluster) -> None:
    await _running(cluster)
    stranger = DomainSeen(instance_id=id_of("stranger"), epoch=5, run=1, running=True)

    for sequence in (1, 2):
        await cluster.say(cluster.inventory("n2", sequence, stranger))

    (event,) = await cluster.events("instance.quarantined")
    assert event["subject"] == id_of("stranger")
    assert await cluster.take() == []


async def test_the_inventory_of_another_session_is_ignored(cluster: Cluster) -> None:
    await _running(cluster)
    await cluster.node_is("n1", NodeState.UP, incarnation=2)
    cluster.incarnations["n1"] = 1

    for sequence in (1, 2):
        assert await cluster.say(cluster.inventory("n1", sequence)) is Verdict.ACK

    assert (await cluster.status("web-1"))["phase"] == "running"


@pytest.mark.parametrize(
    ("reason", "then"),
    [(RefusalReason.OLD_RUN, ("start", 1, 2)), (RefusalReason.OLD_EPOCH, ("stop", 1, 0))],
)
async def test_a_refusal_that_repeating_cannot_change_changes_the_command(
    cluster: Cluster, reason: RefusalReason, then: tuple[str, int, int]
) -> None:
    await cluster.node("n1")
    await cluster.instance("web-1")
    await cluster.scheduler.sweep()
    (start,) = await cluster.take()
    assert isinstance(start, commands.Start)

    await cluster.say(_refusal(start, reason))
    cluster.hand.at_s += 5
    await cluster.scheduler.sweep()
    (next_one,) = await cluster.take()

    assert isinstance(next_one, commands.OfInstance)
    assert (next_one.name, next_one.epoch, getattr(next_one, "run", 0)) == then
    assert len(await cluster.ledger("web-1")) == 1


async def test_a_refused_command_comes_again_under_a_new_id_after_a_pause(
    cluster: Cluster,
) -> None:
    await cluster.node("n1")
    await cluster.instance("web-1")
    await cluster.scheduler.sweep()
    (start,) = await cluster.take()
    assert isinstance(start, commands.Start)

    await cluster.say(_refusal(start, RefusalReason.NO_SESSION))
    await cluster.scheduler.sweep()
    assert await cluster.take() == []
    cluster.hand.at_s += 5
    await cluster.scheduler.sweep()
    (again,) = await cluster.take()

    assert isinstance(again, commands.Start)
    assert again.command_id != start.command_id
    assert (again.epoch, again.run) == (start.epoch, start.run)


async def test_another_nodes_refusal_is_worth_nothing(cluster: Cluster) -> None:
    await cluster.node("n1")
    await cluster.node("n2")
    await cluster.instance("web-1")
    await cluster.scheduler.sweep()
    (start,) = await cluster.take()
    assert isinstance(start, commands.Start)

    forged = _refusal(start, RefusalReason.OLD_EPOCH).model_copy(update={"node_id": id_of("n2")})
    await cluster.say(forged)
    await cluster.scheduler.sweep()

    assert (await cluster.status("web-1"))["phase"] == "starting"


def _refusal(start: commands.Start, reason: RefusalReason) -> reports.CommandRefused:
    return reports.CommandRefused(
        node_id=start.node_id,
        incarnation=start.incarnation,
        command_id=start.command_id,
        verb=start.name,
        instance_id=start.instance_id,
        epoch=start.epoch,
        reason=reason,
        detail="as told",
    )


async def test_a_new_session_gets_the_start_under_a_new_id(cluster: Cluster) -> None:
    await cluster.node("n1")
    await cluster.instance("web-1")
    await cluster.scheduler.sweep()
    (start,) = await cluster.take()

    await cluster.node_is("n1", NodeState.JOINING, term=2)
    await cluster.scheduler.sweep()
    joining = await cluster.take()
    await cluster.node_is("n1", NodeState.UP, term=2)
    await cluster.scheduler.sweep()
    (again,) = await cluster.take()

    assert joining == []
    assert isinstance(again, commands.Start)
    assert (again.term, again.epoch, again.run) == (2, 1, 1)
    assert again.command_id != start.command_id


async def test_a_deleted_instance_is_stopped_and_what_is_left_of_it_cleared(
    cluster: Cluster,
) -> None:
    await _running(cluster)
    await cluster.want("web-1", RunStrategy.ALWAYS, deleted=True)
    await cluster.settle()
    assert (await cluster.status("web-1"))["phase"] == "stopped"

    await cluster.remove_record("web-1")
    await cluster.scheduler.sweep()

    assert await cluster.rows(select(placement.instance_status)) == []
    assert len(await cluster.ledger("web-1")) == 1


async def test_a_record_removed_too_early_leaves_nothing_running(cluster: Cluster) -> None:
    start = await _running(cluster)
    await cluster.remove_record("web-1")

    await cluster.scheduler.sweep()
    (stop,) = await cluster.take()
    assert isinstance(stop, commands.Stop)
    assert stop.instance_id == start.instance_id
    await cluster.say(cluster.stopped(stop))
    await cluster.scheduler.sweep()

    assert await cluster.rows(select(placement.instance_status)) == []


async def _outcome(cluster: Cluster, wish_id: str) -> str | None:
    found = await cluster.rows(
        select(placement.scheduler_wish_outcome).where(
            placement.scheduler_wish_outcome.c.wish_id == wish_id
        )
    )
    return str(found[0]["result"]) if found else None


async def test_a_wish_to_evacuate_waits_for_proof_and_running_instances(cluster: Cluster) -> None:
    await _running(cluster)
    await cluster.node_is("n1", NodeState.FENCING)
    wish = await cluster.wish("n1")
    results = []

    await cluster.scheduler.sweep()
    results.append(await _outcome(cluster, wish))
    await cluster.prove_dead("n1")
    await cluster.scheduler.sweep()
    results.append(await _outcome(cluster, wish))
    await cluster.settle()
    results.append(await _outcome(cluster, wish))

    assert results == [None, None, "succeeded"]


async def test_a_wish_about_a_node_that_is_up_fails(cluster: Cluster) -> None:
    await _running(cluster)
    wish, foreign = await cluster.wish("n1"), await cluster.wish("n1", "fence")

    await cluster.scheduler.sweep()

    assert await _outcome(cluster, wish) == "failed"
    assert await _outcome(cluster, foreign) is None


async def test_every_transition_leaves_an_audit_row_with_a_reason(cluster: Cluster) -> None:
    from evac_common.store import outbox

    await _running(cluster)
    await cluster.prove_dead("n1")
    await cluster.settle()

    rows = await cluster.rows(select(outbox.audit).order_by(outbox.audit.c.sequence))
    assert [(row["action"], row["detail"].get("new")) for row in rows] == [
        ("instance.phase", "starting"),
        ("ledger.assign", None),
        ("instance.phase", "running"),
        ("instance.phase", "pending"),
        ("item.state", "pending"),
        ("item.state", "reserved"),
        ("instance.phase", "starting"),
        ("ledger.assign", None),
        ("item.state", "starting"),
        ("instance.phase", "running"),
        ("item.state", "done"),
    ]
    assert all(row["reason"] for row in rows)
