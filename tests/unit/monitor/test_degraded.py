"""Nodes in trouble: degraded, said and recovered from, and never fenced for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from evac_common.store import placement
from tests.unit.monitor.world import World, id_of

Simulate = Callable[..., Any]


def test_a_node_that_tells_of_its_hypervisor_is_degraded_until_it_does_not(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2")

        n1.troubles = {"libvirt": "no answer for 30 s", "of_a_later_version": "?"}
        await world.reach("n1", "degraded", within_s=20)
        await asyncio.sleep(120)
        row = await world.row("n1")
        assert row is not None
        assert row["troubles"] == [{"reason": "libvirt", "why": "no answer for 30 s"}]
        (degraded,) = await world.events("node.degraded")
        assert degraded["troubles"] == ["libvirt"]

        n1.troubles = {}
        await world.reach("n1", "up", within_s=20)
        (recovered,) = await world.events("node.recovered")
        assert recovered["troubles"] == ["libvirt"]
        assert await world.history("n1") == ["joining", "up", "degraded", "up"]

    simulate(story, monitors=("m1", "m2"))


def test_a_node_that_shuts_down_receives_nothing_until_it_is_proven_dead(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")

        n1.troubles = {"shutting_down": "its machine shuts down in good order"}
        await world.reach("n1", "degraded", within_s=5)
        (degraded,) = await world.events("node.degraded")
        assert degraded["troubles"] == ["shutting_down"]

        n1.hang()
        await world.reach("n1", "fenced")
        assert (await world.history("n1"))[-4:] == ["degraded", "suspect", "fencing", "fenced"]

    simulate(story)


def test_a_degraded_node_that_dies_is_fenced_like_any_other(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        n1.troubles = {"storage": "the pool is gone"}
        await world.reach("n1", "degraded", within_s=20)

        n1.hang()
        await world.reach("n1", "fenced")

        assert (await world.history("n1"))[-4:] == ["degraded", "suspect", "fencing", "fenced"]

    simulate(story)


async def command(world: World, name: str) -> None:
    """A stop that the scheduler still waits for, and will send again."""
    async with world.store.transaction() as tx:
        await tx.execute(
            insert(placement.command).values(
                id=id_of("command"),
                node_id=id_of(name),
                instance_id=id_of("web"),
                verb="stop",
                epoch=1,
                run=0,
                term=1,
                incarnation=1,
                headers={},
                body=b"",
                sent=1,
                next_at=tx.now + timedelta(seconds=3600),
                created_at=tx.now,
            )
        )


@pytest.mark.slow
@pytest.mark.parametrize("monitors", [("m1",), ("m1", "m2")])
def test_a_node_that_answers_no_command_is_degraded_and_never_fenced(
    simulate: Simulate, monitors: tuple[str, ...]
) -> None:
    async def story(world: World) -> None:
        await world.in_service("n1", "n2")
        await command(world, "n1")
        asked_s = world.clock.monotonic()

        await world.reach("n1", "degraded", within_s=400)
        assert world.clock.monotonic() - asked_s >= 300
        row = await world.row("n1")
        assert row is not None
        assert [trouble["reason"] for trouble in row["troubles"]] == ["not_executing"]

        world.kill_monitor()  # the next one has counted nothing, and does not say that all is well
        world.ends.clear()
        world.start_monitor()
        await asyncio.sleep(120)
        assert await world.state_of("n1") == "degraded"

        await world.sql("DELETE FROM command")
        await world.reach("n1", "up", within_s=20)
        assert await world.events("node.fencing", "node.suspect") == []
        assert await world.history("n2") == ["joining", "up"]

    simulate(story, monitors=monitors)


def test_commands_that_nobody_sends_any_more_say_nothing_about_the_node(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        await world.in_service("n1")
        await command(world, "n1")
        await world.sql("UPDATE command SET next_at = '2020-01-01 00:00:00'")
        await asyncio.sleep(400)

        assert await world.state_of("n1") == "up"

    simulate(story)
