"""A dead node's instances come back, whatever is lost, repeated, refused or interrupted."""

from __future__ import annotations

import asyncio

import pytest

from evac_common.messages import commands
from evac_common.messages.reports import StartErrorKind
from evac_common.model.states import NodeState, RunStrategy
from evac_scheduler.adapters.store import SqlDatabase
from evac_scheduler.core.evacuation import Limits
from evac_scheduler.core.policy import Policy
from evac_scheduler.loops.transactions import in_transaction
from tests.seeds import first_is_quick
from tests.unit.scheduler.cluster import Cluster, id_of


async def _twelve_on_n1(cluster: Cluster) -> list[str]:
    await cluster.node("n1")
    await cluster.pool("shared", "n1", "n2", "n3")
    names = [f"web-{number:02}" for number in range(12)]
    for name in names:
        await cluster.instance(name, pool="shared")
    await cluster.settle()
    await cluster.node("n2")
    await cluster.node("n3")
    assert await cluster.phases() == {"running": 12}
    return names


async def test_a_dead_nodes_instances_run_elsewhere_each_with_a_proof(cluster: Cluster) -> None:
    names = await _twelve_on_n1(cluster)
    await cluster.prove_dead("n1")

    await cluster.settle()

    assert await cluster.phases() == {"running": 12}
    homes = {}
    for name in names:
        first, second = await cluster.ledger(name)
        assert (first["epoch"], second["epoch"]) == (1, 2)
        assert second["proof_node_id"] is not None
        homes[name] = second["node_id"]
    assert sorted(homes.values()) == [id_of("n2")] * 6 + [id_of("n3")] * 6
    items = await cluster.items()
    assert [item["state"] for item in items] == ["done"] * 12
    assert await cluster.reservations() == []
    (opened,) = await cluster.events("evacuation.opened")
    (done,) = await cluster.events("evacuation.done")
    assert opened["body"]["instances"] == done["body"]["instances"] == 12
    assert len(await cluster.events("instance.evacuated")) == 12
    (planned,) = await cluster.events("evacuation.planned")
    assert (planned["body"]["reserved"], planned["body"]["waiting"]) == (12, 0)


async def test_items_that_are_opened_after_the_plan_are_done_too(cluster: Cluster) -> None:
    """One replica reads the proof just after it looked for dead owners, and plans."""
    await _twelve_on_n1(cluster)
    await cluster.prove_dead("n1")
    await in_transaction(SqlDatabase(cluster.store), cluster.scheduler.reconciler.plan)
    assert len(await cluster.reservations()) == 12
    assert await cluster.items() == []

    await cluster.settle()

    assert await cluster.phases() == {"running": 12}
    assert [item["state"] for item in await cluster.items()] == ["done"] * 12
    assert len(await cluster.events("evacuation.done")) == 1


async def test_every_node_has_a_reason_in_the_candidates(cluster: Cluster) -> None:
    await _twelve_on_n1(cluster)
    await cluster.prove_dead("n1")

    await cluster.settle()

    candidates = (await cluster.items("web-00"))[0]["candidates"]
    assert [(each["node"], each["verdict"]) for each in candidates] == [
        ("n1", "refused"),
        ("n2", "chosen"),
        ("n3", "possible"),
    ]
    assert candidates[0]["why"] == "state fenced, not up"
    assert (await cluster.status("web-00"))["candidates"] == candidates


async def test_starts_go_out_in_waves_and_a_slot_is_freed_by_a_report(cluster: Cluster) -> None:
    await _twelve_on_n1(cluster)
    await cluster.prove_dead("n1")

    await cluster.scheduler.sweep()
    first = await cluster.take()
    await cluster.scheduler.sweep()
    nothing = await cluster.take()
    assert isinstance(first[0], commands.Start)
    await cluster.say(cluster.started(first[0]))
    await cluster.scheduler.sweep()
    second = await cluster.take()

    assert sorted(each.node_id for each in first) == [id_of("n2")] * 2 + [id_of("n3")] * 2
    assert nothing == []
    assert [each.node_id for each in second] == [first[0].node_id]


async def test_a_lost_start_is_sent_again_unchanged_and_after_its_deadline_anew(
    cluster: Cluster,
) -> None:
    await cluster.node("n1")
    await cluster.instance("web-1")
    await cluster.scheduler.sweep()
    (first,) = await cluster.take()

    sent = []
    for _ in range(24):
        cluster.hand.at_s += 5
        await cluster.scheduler.sweep()
        sent += await cluster.take()

    assert isinstance(first, commands.Start)
    same = [each for each in sent if each.command_id == first.command_id]
    assert all(each == first for each in same)
    assert len(same) == 3  # after 5, 15 and 35 s; the deadline is at 60 s
    later = [each for each in sent if each.command_id != first.command_id]
    assert later
    for each in later:
        assert isinstance(each, commands.Start)
        assert (each.epoch, each.run) == (first.epoch, first.run)
        assert each.deadline > first.deadline
    assert len(await cluster.ledger("web-1")) == 1


async def test_repeated_reports_change_nothing(cluster: Cluster) -> None:
    await cluster.node("n1")
    await cluster.instance("web-1")
    await cluster.scheduler.sweep()
    (start,) = await cluster.take()
    assert isinstance(start, commands.Start)

    for _ in range(3):
        await cluster.say(cluster.started(start))

    assert len(await cluster.events("instance.started")) == 1
    assert (await cluster.status("web-1"))["phase"] == "running"


async def test_a_refused_start_goes_to_another_node_with_the_release_as_proof(
    cluster: Cluster,
) -> None:
    await cluster.node("n1")
    await cluster.node("n2")
    await cluster.instance("web-1")
    await cluster.scheduler.sweep()
    (start,) = await cluster.take()
    assert isinstance(start, commands.Start)
    assert start.node_id == id_of("n1")

    await cluster.say(cluster.refused(start))
    await cluster.scheduler.sweep()
    early = await cluster.take()
    cluster.hand.at_s += 3
    await cluster.scheduler.sweep()
    (again,) = await cluster.take()

    assert early == []
    assert isinstance(again, commands.Start)
    assert (again.node_id, again.epoch, again.run) == (id_of("n2"), 2, 1)
    _, second = await cluster.ledger("web-1")
    assert second["proof_release_id"] is not None
    assert second["proof_node_id"] is None


async def test_a_refused_evacuation_item_is_pending_again_and_ends_done(cluster: Cluster) -> None:
    await _twelve_on_n1(cluster)
    await cluster.prove_dead("n1")
    await cluster.scheduler.sweep()
    first, *others = await cluster.take()
    assert isinstance(first, commands.Start)

    await cluster.say(cluster.refused(first))
    item = next(i for i in await cluster.items() if i["instance_id"] == first.instance_id)
    assert (item["state"], item["target_node_id"]) == ("pending", None)
    assert "refused by its node: capacity: full" in item["reason"]
    for each in others:
        assert isinstance(each, commands.Start)
        await cluster.say(cluster.started(each))
    await cluster.settle()
    cluster.hand.at_s += 3
    await cluster.settle()

    assert {i["state"] for i in await cluster.items()} == {"done"}
    assert await cluster.phases() == {"running": 12}


async def test_three_failed_starts_release_the_instance_for_another_node(cluster: Cluster) -> None:
    await cluster.node("n1")
    await cluster.node("n2")
    await cluster.instance("web-1")
    seen = []

    for _ in range(40):
        await cluster.scheduler.sweep()
        for command in await cluster.take():
            seen.append((command.name, command.node_id == id_of("n1")))
            if isinstance(command, commands.Start) and command.node_id == id_of("n1"):
                await cluster.say(cluster.failed(command, StartErrorKind.HYPERVISOR))
            elif isinstance(command, commands.Start):
                await cluster.say(cluster.started(command))
            elif isinstance(command, commands.Stop):
                await cluster.say(cluster.stopped(command))
        cluster.hand.at_s += 5

    assert seen == [("start", True)] * 3 + [("stop", True), ("start", False)]
    first, second = await cluster.ledger("web-1")
    assert (first["run"], second["run"]) == (3, 1)
    assert (await cluster.status("web-1"))["phase"] == "running"


async def test_a_locked_image_stays_on_its_node_and_alarms(cluster: Cluster) -> None:
    await cluster.node("n1")
    await cluster.node("n2")
    await cluster.instance("web-1")

    for _ in range(60):
        await cluster.scheduler.sweep()
        for command in await cluster.take():
            assert isinstance(command, commands.Start)
            assert command.node_id == id_of("n1")
            await cluster.say(cluster.failed(command, StartErrorKind.STORAGE_LOCKED))
        cluster.hand.at_s += 5

    failures = await cluster.events("instance.start_failed")
    assert [row["alarm"] for row in failures[:13]] == [False] * 11 + [True, False]
    assert len(await cluster.ledger("web-1")) == 1


async def test_a_second_death_moves_the_items_of_both_evacuations_together(
    cluster: Cluster,
) -> None:
    await cluster.node("n1")
    await cluster.instance("web-1")
    await cluster.settle()
    await cluster.node("n2")
    await cluster.node("n3")
    await cluster.prove_dead("n1")
    await cluster.scheduler.sweep()
    (start,) = await cluster.take()
    assert start.node_id == id_of("n2")

    await cluster.prove_dead("n2")
    await cluster.settle()

    assert [item["state"] for item in await cluster.items()] == ["done", "done"]
    epochs = [(row["epoch"], row["node_id"]) for row in await cluster.ledger("web-1")]
    assert epochs == [(1, id_of("n1")), (2, id_of("n2")), (3, id_of("n3"))]
    assert len(await cluster.events("evacuation.done")) == 2


async def test_two_evacuations_of_one_instance_book_and_count_it_once(cluster: Cluster) -> None:
    """Its target dies in mid-start: both evacuations list it, and room is there for just one."""
    await cluster.node("n1")
    await cluster.instance("web-1", memory_mib=1024)
    await cluster.settle()
    await cluster.node("n2")
    await cluster.prove_dead("n1")
    await cluster.scheduler.sweep()
    (start,) = await cluster.take()
    assert start.node_id == id_of("n2")
    await cluster.node("n3", vcpus=3, memory_mib=3 * 1024)
    await cluster.instance("busy", memory_mib=2048)
    await cluster.node_is("n2", NodeState.SUSPECT)
    await cluster.settle()  # n3 has room for 1024 MiB now, and no more
    await cluster.node_is("n3", NodeState.DEGRADED)  # booked there is nothing yet

    await cluster.prove_dead("n2")
    await cluster.scheduler.sweep()
    assert [item["state"] for item in await cluster.items("web-1")] == ["pending", "pending"]
    assert await cluster.reservations() == []

    await cluster.node_is("n3", NodeState.UP)
    for _ in range(2):  # planned twice, booked once, started once
        await cluster.scheduler.sweep()
    (again,) = await cluster.take()
    assert (again.node_id, await cluster.reservations()) == (id_of("n3"), [])
    assert isinstance(again, commands.Start)
    await cluster.say(cluster.started(again))
    await cluster.settle()

    assert [item["state"] for item in await cluster.items("web-1")] == ["done", "done"]
    assert len(await cluster.events("evacuation.done")) == 2
    await cluster.node_is("n3", NodeState.UP)
    await cluster.instance("too-much", memory_mib=1024)
    await cluster.settle()
    assert (await cluster.status("too-much"))["phase"] == "pending", "n3 is full, not overfull"


async def test_without_room_items_stay_open_and_take_the_first_room_there_is(
    cluster: Cluster,
) -> None:
    await cluster.node("n1")
    for name, priority in (("late", 5), ("first", 1), ("big", 3)):
        await cluster.instance(name, memory_mib=4000, priority=priority)
    await cluster.settle()
    await cluster.node("n2", memory_mib=4096)
    await cluster.prove_dead("n1")

    await cluster.settle()
    running = {n: (await cluster.status(n))["phase"] for n in ("late", "first", "big")}
    waiting = (await cluster.items("big"))[0]
    await cluster.node("n3", memory_mib=8192)
    await cluster.settle()

    assert running == {"late": "pending", "first": "running", "big": "pending"}
    assert waiting["state"] == "pending"
    assert waiting["reason"] == "no node can take it: 2 refused (1 by memory, 1 by state)"
    assert await cluster.phases() == {"running": 3}


async def test_local_storage_waits_for_its_own_node_and_restarts_there(cluster: Cluster) -> None:
    await cluster.node("n1")
    await cluster.node("n2")
    await cluster.pool("local", "n1")
    await cluster.instance("db-1", pool="local")
    await cluster.settle()
    await cluster.prove_dead("n1")

    await cluster.settle()
    (item,) = await cluster.items("db-1")
    await cluster.node_is("n1", NodeState.UP, incarnation=2)
    await cluster.settle()

    assert item["state"] == "pending"
    assert item["reason"].startswith("local_storage: ")
    first, second = await cluster.ledger("db-1")
    assert (first["incarnation"], second["incarnation"]) == (1, 2)
    assert second["node_id"] == id_of("n1")
    assert (await cluster.items("db-1"))[0]["state"] == "done"


async def test_a_reservation_on_a_node_that_left_up_returns(cluster: Cluster) -> None:
    cluster.policy = Policy(limits=Limits(per_node=1))
    cluster.scheduler = cluster.replica()
    await _twelve_on_n1(cluster)
    await cluster.prove_dead("n1")
    await cluster.scheduler.sweep()
    on_n2 = [row for row in await cluster.reservations() if row["node_id"] == id_of("n2")]
    assert len(on_n2) == 5

    await cluster.node_is("n2", NodeState.SUSPECT)
    await cluster.scheduler.sweep()

    reserved = await cluster.reservations()
    assert {row["node_id"] for row in reserved} == {id_of("n3")}
    assert len(reserved) == 10


async def test_a_crash_between_plan_and_wave_is_resumed_by_another_replica(
    cluster: Cluster,
) -> None:
    await _twelve_on_n1(cluster)
    await cluster.prove_dead("n1")
    database = cluster.scheduler.reconciler._database
    for step in (cluster.scheduler.reconciler.settle, cluster.scheduler.reconciler.plan):
        async with database.transaction() as records:
            await step(records)
    assert len(await cluster.reservations()) == 12
    assert await cluster.take() == []
    await cluster.scheduler.store.close()

    cluster.scheduler = cluster.replica()
    await cluster.settle()

    assert await cluster.phases() == {"running": 12}
    assert await cluster.reservations() == []


async def test_halting_between_plan_and_wave_cancels_item_and_reservation(
    cluster: Cluster,
) -> None:
    await _twelve_on_n1(cluster)
    await cluster.prove_dead("n1")
    await cluster.scheduler.sweep()
    waiting = [item for item in await cluster.items() if item["state"] == "reserved"]
    name = bytes.fromhex(waiting[0]["instance_id"].lstrip("0")).decode()

    await cluster.want(name, RunStrategy.HALTED)
    await cluster.scheduler.sweep()

    assert (await cluster.items(name))[0]["state"] == "cancelled"
    assert id_of(name) not in {row["instance_id"] for row in await cluster.reservations()}
    assert (await cluster.status(name))["phase"] == "stopped"
    await cluster.want(name, RunStrategy.ALWAYS)
    await cluster.settle()
    assert (await cluster.items(name))[0]["state"] == "done"
    assert (await cluster.status(name))["phase"] == "running"


@pytest.mark.parametrize("replicas", first_is_quick([2, 3]))
async def test_schedulers_that_race_assign_everything_once(cluster: Cluster, replicas: int) -> None:
    names = await _twelve_on_n1(cluster)
    others = [cluster.scheduler, *(cluster.replica() for _ in range(replicas - 1))]
    await cluster.prove_dead("n1")

    for _ in range(12):
        await asyncio.gather(*(each.sweep() for each in others))
        taken = await cluster.take()
        starts = [each for each in taken if isinstance(each, commands.Start)]
        await asyncio.gather(
            *(
                cluster.say(cluster.started(start), to=others[index % replicas])
                for index, start in enumerate(starts)
            )
        )

    assert await cluster.phases() == {"running": 12}
    for name in names:
        assert [row["epoch"] for row in await cluster.ledger(name)] == [1, 2]
        assert [row["run"] for row in await cluster.ledger(name)] == [1, 1]
    assert len(await cluster.events("instance.placed")) == 24
    assert len(await cluster.events("instance.evacuated")) == 12
    assert len(await cluster.events("evacuation.opened")) == 1
    assert len(await cluster.events("evacuation.done")) == 1


async def test_thirty_instances_are_planned_in_one_transaction(cluster: Cluster) -> None:
    await cluster.node("n1")
    for number in range(30):
        await cluster.instance(f"web-{number:02}")
    await cluster.settle(40)
    await cluster.node("n2")
    await cluster.node("n3")
    await cluster.prove_dead("n1")
    reconciler = cluster.scheduler.reconciler
    async with reconciler._database.transaction() as records:
        await reconciler.settle(records)

    async with reconciler._database.transaction() as records:
        await reconciler.plan(records)

    reserved = await cluster.reservations()
    assert len(reserved) == 30
    assert len({row["created_at"] for row in reserved}) == 1
    assert {item["state"] for item in await cluster.items()} == {"reserved"}


async def test_a_record_of_a_newer_api_holds_up_no_evacuation(cluster: Cluster) -> None:
    """While services are upgraded one after the other, all recovery hangs on reading every row."""
    names = await _twelve_on_n1(cluster)
    await cluster.declare_more(names[0], added_by_a_later_version={"x": 1})
    await cluster.prove_dead("n1")

    await cluster.settle()

    assert await cluster.phases() == {"running": 12}
    for name in names:
        assert len(await cluster.ledger(name)) == 2
