"""More nodes die than may be cut off without a person: a storm, and what its release changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.monitor.world import World

Simulate = Callable[..., Any]


def test_too_many_silent_nodes_are_a_storm_until_an_operator_releases_it(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        made = await world.in_service(*(f"n{number}" for number in range(1, 7)))
        for node in made[:3]:
            node.hang()

        await asyncio.sleep(120)
        assert await world.events("node.fencing") == []
        (storm,) = await world.events("cluster.storm")
        assert storm["silent_nodes"] == ["n1", "n2", "n3"]
        held = {event["gate"] for event in await world.events("node.fencing_held")}
        assert {"blast_radius", "storm"} <= held
        assert all(node.on for node in made)

        wish = await world.cluster_wish("storm_release")
        for node in made[:3]:
            await world.reach(node.name, "fenced")
        assert (await world.outcome(wish) or ("", ""))[0] == "succeeded"
        assert len(await world.events("node.down")) == 3
        assert len(await world.events("cluster.storm")) == 1
        assert all(node.on for node in made[3:])

    simulate(story)


def test_a_release_forgives_nobody_whose_silence_nobody_saw_yet(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        made = await world.in_service(*(f"n{number}" for number in range(1, 9)))  # 2 may be dead
        for node in made[:3]:
            node.hang()
        await asyncio.sleep(60)
        assert len(await world.events("cluster.storm")) == 1

        for node in made[3:6]:
            node.hang()
        await world.cluster_wish("storm_release")
        await asyncio.sleep(120)

        assert await world.state_of("n1") == "fenced"
        assert len(await world.events("cluster.storm")) == 2
        assert [await world.state_of(node.name) for node in made[3:6]] == ["suspect"] * 3
        assert all(node.on for node in made[3:])

    simulate(story)


def test_a_release_by_a_clock_that_was_ahead_forgives_nothing_that_comes(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        made = await world.in_service(*(f"n{number}" for number in range(1, 7)))
        # By another monitor, say, whose clock was ten days ahead; this one knows of no jump.
        await world.sql("UPDATE cluster_flags SET storm_released_at = '2026-01-11 00:00:00.000000'")

        for node in made[:3]:
            node.hang()
        await asyncio.sleep(120)

        assert len(await world.events("cluster.storm")) == 1
        assert all(node.on for node in made)

    simulate(story)


@pytest.mark.parametrize("jump_s", [0, 7200, -7200])
def test_a_second_death_within_the_window_of_the_first_is_a_storm(
    simulate: Simulate, jump_s: int
) -> None:
    """Also when the wall clock that wrote when the first one was fenced has jumped since."""

    async def story(world: World) -> None:
        n1, n2, _ = await world.in_service("n1", "n2", "n3")
        n1.hang()
        await world.reach("n1", "fenced")
        n1.boot()
        await world.reach("n1", "up")
        world.walls.jump("m1", jump_s)

        n2.hang()
        await asyncio.sleep(120)

        assert await world.state_of("n2") == "suspect"
        assert len(await world.events("cluster.storm")) == 1

    simulate(story)
