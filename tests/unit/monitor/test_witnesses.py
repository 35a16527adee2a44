"""What else than heartbeats speaks for or against a silent node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.monitor.world import World

Simulate = Callable[..., Any]


def test_a_silent_node_that_a_second_channel_shows_alive_is_isolated_and_left_alone(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        world.shown["n1"] = True
        n1.hang()
        await world.reach("n1", "degraded", within_s=20)
        await asyncio.sleep(120)
        row = await world.row("n1")
        assert row is not None
        assert (row["state"], row["isolated"]) == ("degraded", True)
        assert [trouble["reason"] for trouble in row["troubles"]] == ["daemon_silent"]
        (isolated,) = await world.events("node.isolated")
        assert (isolated["node"], isolated["on_isolated"]) == ("n1", "wait")
        assert n1.on

        n1.start()
        await world.reach("n1", "up", within_s=30)
        row = await world.row("n1")
        assert row is not None
        assert (row["isolated"], row["troubles"]) == (False, [])

    simulate(story, witnesses=True)


def test_an_isolated_node_that_falls_silent_there_too_is_fenced(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        world.shown["n1"] = True
        n1.hang()
        await world.reach("n1", "degraded", within_s=20)

        world.shown["n1"] = False
        await world.reach("n1", "fenced")
        assert "isolated" not in str(await world.events("node.fencing_held"))

    simulate(story, witnesses=True)


def test_isolated_nodes_are_fenced_where_that_is_wanted(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        world.shown["n1"] = True
        n1.hang()
        await world.reach("n1", "fenced", within_s=60)

        (isolated,) = await world.events("node.isolated")
        assert isolated["on_isolated"] == "fence"
        assert await world.events("node.degraded") == []

    simulate(story, witnesses=True, on_isolated="fence")


@pytest.mark.parametrize(("reached", "words"), [(True, "is reached by"), (None, "no answer from")])
def test_a_node_that_peers_do_not_give_up_is_not_fenced(
    simulate: Simulate, reached: bool | None, words: str
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        world.reached["n1"] = reached
        n1.hang()
        await asyncio.sleep(120)
        assert await world.state_of("n1") == "suspect"
        (held,) = await world.events("node.fencing_held")
        assert held["gate"] == "peers"
        assert words in held["why"]

        world.reached["n1"] = False
        await world.reach("n1", "fenced", within_s=40)

    simulate(story, witnesses=True)


def test_a_second_channel_that_cannot_tell_holds_the_fencing(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        world.shown["n1"] = None
        n1.hang()
        await asyncio.sleep(60)

        assert await world.state_of("n1") == "suspect"
        (held,) = await world.events("node.fencing_held")
        assert (held["gate"], "cannot tell" in held["why"]) == ("second_channel", True)

    simulate(story, witnesses=True)


def test_witnesses_cost_an_ordinary_death_no_time(simulate: Simulate) -> None:
    async def story(world: World) -> float:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        n1.hang()
        died_s = world.clock.monotonic()
        await world.reach("n1", "fencing")
        return world.clock.monotonic() - died_s

    assert simulate(story, witnesses=True) < simulate(story) + 1.0


def test_a_rack_without_power_recovers_by_itself(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        made = await world.in_service(*(f"n{number}" for number in range(1, 7)))
        for node in made[:4]:
            node.power_off()
        for node in made[:4]:
            await world.reach(node.name, "fenced", within_s=90)

        assert await world.events("cluster.storm") == []
        for node in made[:4]:
            assert node.bmc is not None
            assert "power_off" not in node.bmc.calls  # read, never ordered
            # The proof's own two readings, after the decision, beside those that opened the gate.
            assert node.bmc.calls.count("power_state") >= 4

        # None of these fencings stands in the way of the next one, within the same hour.
        made[4].hang()
        await world.reach("n5", "fenced", within_s=90)

    simulate(story)


def test_a_partition_that_looks_like_a_rack_is_still_a_storm(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        made = await world.in_service(*(f"n{number}" for number in range(1, 7)))
        for node in made[:3]:
            node.hang()  # and has power
        made[3].power_off()  # dies for itself in the middle of it
        await asyncio.sleep(60)

        assert len(await world.events("cluster.storm")) == 1
        assert await world.state_of("n4") == "fenced"  # dead, not partitioned
        await asyncio.sleep(60)
        assert [await world.state_of(node.name) for node in made[:3]] == ["suspect"] * 3
        assert all(node.on for node in made[:3])

    simulate(story)


def test_all_nodes_silent_at_once_are_the_broker_and_leave_no_storm(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        made = await world.in_service(*(f"n{number}" for number in range(1, 6)))
        for node in made:
            node.link.cut()
        await asyncio.sleep(90)
        held = await world.events("node.fencing_held")
        assert held
        assert all("5 nodes fell silent" in event["why"] for event in held)

        for node in made:  # they do not come back at once
            node.link.heal()
            await asyncio.sleep(6)
        for node in made:
            await world.reach(node.name, "up")
        assert await world.events("cluster.storm", "node.fencing") == []

        made[0].hang()
        await world.reach("n1", "fenced")

    simulate(story)


def test_a_node_that_stays_away_after_all_were_silent_is_fenced(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        made = await world.in_service("n1", "n2", "n3", "n4")
        for node in made:
            node.link.cut()
        await asyncio.sleep(60)
        for node in made[1:]:
            node.link.heal()

        await world.reach("n1", "fenced", within_s=150)
        assert len(await world.events("node.down")) == 1
        assert await world.events("cluster.storm") == []

    simulate(story)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_monitor_that_does_not_hear_a_node_believes_the_one_that_does(
    simulate: Simulate, seed: int
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        await asyncio.sleep(300)
        assert await world.events("node.fencing") == []
        assert n1.on
        assert len(await world.events("node.suspect")) <= 1

        n1.hang()  # now nobody hears it: the other's old notes do not keep it alive
        died_s = world.clock.monotonic()
        await world.reach("n1", "fenced", within_s=60)
        assert world.clock.monotonic() - died_s < 35

    simulate(story, seed=seed, monitors=("m1", "m2"), unheard={"m1": ["n1"]})


@pytest.mark.slow
def test_a_disarm_is_said_again_until_it_ends_by_itself(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        await world.in_service("n1")
        await world.cluster_wish("disarm", for_s=700)
        await asyncio.sleep(1000)

        still = await world.events("cluster.still_disarmed")
        assert [round(event["left_s"], -2) for event in still] == [400, 100]
        assert all("the switch is replaced" in event["why"] for event in still)
        (armed,) = await world.events("cluster.armed")
        assert "the time limit ended" in armed["why"]

    simulate(story, monitors=("m1", "m2"))
