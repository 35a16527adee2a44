"""What a node's heartbeats tell of a hypervisor that does not answer."""

from __future__ import annotations

from evac_common.messages.heartbeats import TROUBLE_CHARACTERS_MAX, Heartbeat
from tests.unit.compute.world import World, in_world


def test_a_hypervisor_away_for_long_is_told_until_it_answers_again() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.settle(20)
        world.hypervisor.go_away("x" * 2 * TROUBLE_CHARACTERS_MAX)
        await world.settle(25)  # away, and not for long yet
        assert all(not beat.troubles for beat in world.all(Heartbeat))

        await world.settle(60)
        told = world.all(Heartbeat)[-1].troubles
        assert list(told) == ["libvirt"]
        assert told["libvirt"].startswith("the hypervisor has not answered for ")
        assert len(told["libvirt"]) == TROUBLE_CHARACTERS_MAX

        world.hypervisor.come_back()
        await world.settle(20)
        assert world.all(Heartbeat)[-1].troubles == {}

    in_world(test)
