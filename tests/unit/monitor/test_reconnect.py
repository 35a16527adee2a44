"""The broker comes back: what the monitor did not hear meanwhile says nothing about any node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from evac_common.bus.embedded import EmbeddedBroker
from tests.seeds import first_is_quick
from tests.unit.monitor.world import World

Simulate = Callable[..., Any]


@pytest.mark.parametrize("moment", first_is_quick(range(10)))
def test_silence_is_counted_from_the_reconnection_whatever_the_monitor_does_first(
    simulate: Simulate, moment: int
) -> None:
    """The first canary comes back at once, perhaps between two beats of the monitor's own pulse."""

    async def story(world: World) -> None:
        await world.in_service("n1", "n2", "n3")
        world.broker.stop()
        await asyncio.sleep(60 + moment * 0.05)
        world.broker = EmbeddedBroker(world.state)
        await asyncio.sleep(30)

        # A node that is slower than we are to come back may be suspected, but not for the outage.
        suspected = await world.events("node.suspect")
        assert [event for event in suspected if event["silent_s"] > 15] == []
        assert await world.events("cluster.storm", "node.fencing") == []

    simulate(story, seed=moment)
