"""A start's deadline is told by a controller's clock, and the node's own may show another day."""

from __future__ import annotations

import pytest

from evac_common.messages.reports import CommandRefused, RefusalReason, Started
from tests.unit.compute.world import World, in_world

DAY_S = 86400.0


@pytest.mark.parametrize("ahead_s", [DAY_S, -DAY_S])
def test_a_node_whose_wall_clock_is_a_day_off_starts_what_comes_in_time(ahead_s: float) -> None:
    async def test(world: World) -> None:
        world.walls.jump("compute", ahead_s)
        await world.into_session()
        await world.say(world.start("web", late_s=-20))
        await world.hear(Started, within_s=10)
        assert world.executing() == [("web", 1, 1)]

    in_world(test)


@pytest.mark.parametrize("ahead_s", [0.0, DAY_S, -DAY_S])
def test_a_start_that_waits_on_the_node_beyond_its_time_is_refused(ahead_s: float) -> None:
    async def test(world: World) -> None:
        world.walls.jump("compute", ahead_s)
        world.hypervisor.start_delay_s = 30.0
        await world.into_session()
        await world.say(world.start("web", run=1))
        await world.say(world.start("web", run=2, late_s=-20))  # waits for the first one
        refused = await world.hear(CommandRefused)
        assert refused.reason is RefusalReason.DEADLINE
        assert refused.detail == "its deadline passed 10.0 s ago"
        assert world.executing() == [("web", 1, 1)]

    in_world(test)


def test_a_start_that_is_taken_up_after_a_crash_has_its_time_from_then_on() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        world.hypervisor.hang()
        await world.say(world.start("web", late_s=-20))
        await world.settle(1)
        world.kill_daemon()
        world.hypervisor.resume()
        await world.settle(60)
        world.start_daemon()
        await world.into_session()
        await world.hear(Started, within_s=10)
        assert world.executing() == [("web", 1, 1)]

    in_world(test)


def test_a_start_that_does_not_say_when_it_was_issued_is_not_judged_by_another_clock() -> None:
    async def test(world: World) -> None:
        world.walls.jump("compute", DAY_S)
        await world.into_session()
        await world.say(world.start("web", issued_at=None))
        await world.hear(Started, within_s=10)

    in_world(test)
