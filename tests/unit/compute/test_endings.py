"""Why a guest ended is told by an event; that it is gone may be seen first, by a look."""

from __future__ import annotations

import pytest

from evac_common.messages.reports import Exited, Inventory, Started
from evac_common.model.states import ExitReason
from evac_compute.actions import EVENT_LATE_S
from tests.unit.compute.world import World, id_of, in_world


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("delay_s", [0.0, EVENT_LATE_S / 2])
def test_a_look_that_is_earlier_than_the_event_does_not_take_its_reason_away(
    seed: int, delay_s: float
) -> None:
    async def test(world: World) -> None:
        world.hypervisor.event_delay_s = delay_s
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        await world.settle(0.97)  # so that looks are due at about the moment of the crash

        world.hypervisor.end_guest(id_of("web"), "crash")
        exited = await world.hear(Exited)
        await world.settle()
        assert exited.reason is ExitReason.CRASHED
        assert world.reports() == ["started", "exited"]

    in_world(test, seed=seed, inventory_interval_s=0.2)


def test_an_end_that_no_event_tells_of_is_lost_after_a_moment_and_not_later() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)

        world.hypervisor.lose_guest(id_of("web"))
        since_s = world.clock.monotonic()
        assert (await world.hear(Exited)).reason is ExitReason.LOST
        took_s = world.clock.monotonic() - since_s
        assert EVENT_LATE_S <= took_s < EVENT_LATE_S + 0.5
        await world.settle()
        assert world.reports() == ["started", "exited"]

    in_world(test, inventory_interval_s=0.2)


def test_no_inventory_without_a_guest_is_sent_before_its_end_is_told() -> None:
    """Two of them would be an end without a reason, to the scheduler."""

    async def test(world: World) -> None:
        world.hypervisor.event_delay_s = EVENT_LATE_S / 2
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        await world.settle()

        world.hypervisor.end_guest(id_of("web"), "panic")
        before = len(world.heard)
        await world.hear(Exited)
        said = world.heard[before:]
        told = next(at for at, each in enumerate(said) if isinstance(each, Exited))
        early = [each for each in said[:told] if isinstance(each, Inventory)]
        assert all(each.domains for each in early)
        after = len(world.all(Inventory))
        await world.hear(Inventory, count=after + 2)

    in_world(test, inventory_interval_s=0.1)


def test_many_guests_lost_at_once_are_not_waited_for_one_by_one() -> None:
    async def test(world: World) -> None:
        names = [f"web-{number}" for number in range(8)]
        await world.into_session()
        for name in names:
            await world.say(world.start(name))
        await world.hear(Started, count=len(names))

        for name in names:
            world.hypervisor.lose_guest(id_of(name))
        since_s = world.clock.monotonic()
        await world.hear(Exited, count=len(names))
        assert world.clock.monotonic() - since_s < EVENT_LATE_S + 0.5

    in_world(test, inventory_interval_s=0.2, actions_max=1)
