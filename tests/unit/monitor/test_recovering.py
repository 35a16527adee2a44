"""The database went back in time: how it is noticed, and how every node comes into the new term."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evac_common.messages.reports import DomainSeen
from evac_common.store import nodes, regress
from tests.unit.monitor.world import Node, World, id_of, uuid_of

Simulate = Callable[..., Any]


async def flags(world: World) -> dict[str, Any]:
    (row,) = await world.table(nodes.cluster_flags)
    return row


async def down_term(world: World, name: str) -> int:
    row = await world.row(name)
    assert row is not None
    return int(row["down_term"])


def restored(world: World, history: str) -> None:
    """What whoever copies a SQLite file back must do."""
    regress.marker(Path(world.url.removeprefix("sqlite:///"))).write_text(history)


async def scheduler_is_done(world: World) -> None:
    term = (await flags(world))["term"]
    await world.sql(
        "INSERT INTO recovery (term, adopted, left_alone, finished_at)"
        " VALUES (:term, 2, 1, '2026-01-01 00:00:00.000000')",
        term=term,
    )


def test_another_database_gives_every_node_a_session_of_a_new_term_and_cuts_off_nobody(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        n1, n2, n3 = await world.in_service("n1", "n2", "n3")
        n1.domains = [DomainSeen(instance_id=id_of("web"), epoch=4, run=1, running=True)]

        restored(world, "another history")
        await asyncio.sleep(20)
        n3.power_off()
        await asyncio.sleep(200)

        (event,) = await world.events("cluster.recovering")
        assert "another history" in event["why"]
        assert event["alarm"]
        assert event["term"] == 2
        for node in (n1, n2):
            assert node.sessions[-1].term == 2
            assert node.sessions[-1].superseded == {}
            assert node.term == 2
            assert await world.state_of(node.name) == "up"
        assert len(n1.domains) == 1
        assert await world.state_of("n3") == "suspect"
        assert (await flags(world))["recovering"]

        await scheduler_is_done(world)
        await asyncio.sleep(20)
        (event,) = await world.events("cluster.recovered")
        assert (event["adopted"], event["left_alone"]) == (2, 1)
        assert not (await flags(world))["recovering"]
        await world.reach("n3", "fenced", within_s=300)

    simulate(story)


def test_a_node_of_a_life_that_the_database_forgot_tells_of_it(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        (n1,) = await world.in_service("n1")
        n1.boot()
        await asyncio.sleep(15)
        assert (n1.incarnation, n1.term) == (2, 1)

        await world.sql("UPDATE node_state SET incarnation = 1, generation = generation + 1")
        await world.sql("UPDATE node_facts SET boot_id = 'boot-1'")
        await asyncio.sleep(60)

        (event,) = await world.events("cluster.recovering")
        assert "n1 is in session 1.2, the database has given it 1.1" in event["why"]
        row = await world.row("n1")
        assert row is not None
        assert (row["state"], row["term"], row["incarnation"]) == ("up", 2, 2)

    simulate(story)


def test_a_term_that_the_forgotten_history_used_is_not_used_again(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        (n1,) = await world.in_service("n1")
        restored(world, "second")
        await asyncio.sleep(20)
        await scheduler_is_done(world)
        await asyncio.sleep(20)
        assert n1.term == 2

        await world.sql("UPDATE cluster_flags SET term = 1, database_identity = 'first'")
        await world.sql("UPDATE node_state SET term = 1, generation = generation + 1")
        await world.sql("DELETE FROM recovery")
        await asyncio.sleep(60)

        assert (await flags(world))["term"] > 2
        assert n1.term == (await flags(world))["term"]

    simulate(story)


def test_an_operators_word_is_enough(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        await world.in_service("n1")
        wish = await world.cluster_wish("restored")
        await asyncio.sleep(20)

        assert (await world.outcome(wish) or ("", ""))[0] == "succeeded"
        (event,) = await world.events("cluster.recovering")
        assert "a backup was restored" in event["why"]

    simulate(story)


def test_an_epoch_that_the_ledger_does_not_know_begins_one_recovery(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        await world.in_service("n1")
        await world.sql(
            "INSERT INTO sighting (instance_id, node_id, epoch, run, running, term, incarnation,"
            " explained, judged_term, seen_at)"
            " VALUES (:vm, :node, 7, 1, 1, 1, 1, 0, 0, '2026-01-01 00:00:00.000000')",
            vm=id_of("web"),
            node=id_of("n1"),
        )
        await asyncio.sleep(60)

        (event,) = await world.events("cluster.recovering")
        assert "n1 shows epoch 7" in event["why"]

    simulate(story)


def test_a_proof_of_before_says_nothing_and_one_of_now_does(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, n2, _ = await world.in_service("n1", "n2", "n3")
        n1.power_off()
        await world.reach("n1", "fenced")
        restored(world, "another history")
        await asyncio.sleep(20)
        assert await down_term(world, "n1") == 0

        vouched = await world.wish("n1", "confirm_down")
        fence = await world.wish("n2", "fence")
        await asyncio.sleep(60)

        assert (await world.outcome(vouched) or ("", ""))[0] == "succeeded"
        assert (await world.outcome(fence) or ("", ""))[0] == "succeeded"
        assert await down_term(world, "n1") == 2
        assert await down_term(world, "n2") == 2
        assert await down_term(world, "n3") == 0
        assert not n2.on

    simulate(story)


@pytest.mark.parametrize("verb", ["confirm_down", "fence"])
def test_what_was_asked_before_the_database_went_back_must_be_said_again(
    simulate: Simulate, verb: str
) -> None:
    """An open wish of a backup: the node has been cut off since, is back, and is silent a while."""

    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        world.kill_monitor()
        n1.hang()
        wish = await world.wish("n1", verb)
        restored(world, "another history")
        world.start_monitor()
        await asyncio.sleep(100)

        outcome = await world.outcome(wish)
        assert outcome is not None
        assert (outcome[0], "say it again" in outcome[1]) == ("failed", True)
        assert await down_term(world, "n1") == 0
        assert n1.on

        again = await world.wish("n1", "confirm_down")
        await asyncio.sleep(20)
        assert (await world.outcome(again) or ("", ""))[0] == "succeeded"
        assert await down_term(world, "n1") == 2

    simulate(story)


def test_while_recovering_nobody_is_vouched_for_whose_later_life_is_heard(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        n1.hang()
        await asyncio.sleep(10)
        restored(world, "another history")
        await asyncio.sleep(20)
        n1.dmi_uuid = uuid_of("another mainboard")  # so its registration is refused
        n1.boot()
        await asyncio.sleep(10)

        wish = await world.wish("n1", "confirm_down")
        await asyncio.sleep(20)

        outcome = await world.outcome(wish)
        assert outcome is not None
        assert (outcome[0], "its heartbeats arrive" in outcome[1]) == ("failed", True)
        assert await down_term(world, "n1") == 0

    simulate(story)


async def _remembered_in_fencing(world: World, node: Node) -> None:
    restored(world, "another history")
    await asyncio.sleep(20)
    await world.sql(
        "UPDATE node_state SET state = 'fencing', generation = generation + 1,"
        " since = '2020-01-01 00:00:00.000000' WHERE node_id = :node",
        node=node.node_id,
    )


@pytest.mark.slow
def test_a_fencing_that_the_database_remembers_switches_nothing_off(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        (n1, *_) = await world.in_service("n1", "n2", "n3")
        await _remembered_in_fencing(world, n1)
        await asyncio.sleep(100)

        assert n1.on
        assert await world.state_of("n1") == "blocked"
        (alarm,) = await world.events("node.blocked")
        assert "its power is on, and nothing is switched off" in alarm["why"]

        await asyncio.sleep(400)  # tries while it is blocked, and a reminder
        assert n1.on

    simulate(story)


def test_a_fencing_that_the_database_remembers_proves_what_is_off(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        (n1, *_) = await world.in_service("n1", "n2", "n3")
        n1.power_off()
        await _remembered_in_fencing(world, n1)
        await world.reach("n1", "fenced")

        assert await down_term(world, "n1") == 2

    simulate(story)
