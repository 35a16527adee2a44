"""The broker comes back: what the monitor did not hear meanwhile says nothing about any node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from evac_common.bus.embedded import EmbeddedBroker
from tests.unit.monitor.world import World

Simulate = Callable[..., Any]


@pytest.mark.parametrize("seed", range(8))
def test_a_broker_that_was_away_for_longer_than_a_fencing_takes_is_no_storm(
    simulate: Simulate, seed: int
) -> None:
    """Suspected, as the canary is younger than the silence; judged only after the reconnection."""

    async def story(world: World) -> None:
        await world.in_service("n1", "n2", "n3")
        world.broker.stop()
        # Another moment between two beats of the monitor each time.
        await asyncio.sleep(20 + seed * 0.03)
        world.broker = EmbeddedBroker(world.state)
        await asyncio.sleep(20)

        assert await world.events("cluster.storm", "node.fencing") == []
        assert [await world.state_of(name) for name in ("n1", "n2", "n3")] == ["up"] * 3

    simulate(story, profile="fast", seed=seed)
