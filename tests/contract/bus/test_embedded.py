"""The embedded bus keeps the contract."""

from __future__ import annotations

import pytest

from evac_common.bus.admin import EmbeddedAdmin
from evac_common.bus.embedded import EmbeddedBroker, EmbeddedBus, EmbeddedState, Link
from evac_common.bus.port import Bus
from evac_common.bus.timings import BusTimings
from evac_common.service.clock import SystemClock
from tests.contract.bus.contract import BusContract
from tests.contract.bus.world import World


class EmbeddedWorld:
    timings = BusTimings(
        call_limit_s=0.3,
        backoff_min_s=0.02,
        backoff_max_s=0.05,
        canary_every_s=0.05,
        retry_min_s=0.005,
        retry_max_s=0.02,
    )

    def __init__(self) -> None:
        self.state = EmbeddedState.with_controllers()
        self.admin = EmbeddedAdmin(self.state)
        self._broker: EmbeddedBroker | None = EmbeddedBroker(self.state)
        self._links: dict[str, list[Link]] = {}

    def bus(self, user: str, *, claims: str | None = "", careful: bool = False) -> Bus:
        link = Link(dead_after_s=0.4)
        self._links.setdefault(user, []).append(link)
        return EmbeddedBus(
            self.state,
            user=user,
            clock=SystemClock(),
            link=link,
            timings=self.timings,
            claims=claims,
        )

    async def kill(self) -> None:
        assert self._broker is not None
        self._broker.stop()

    async def restart(self) -> None:
        self._broker = EmbeddedBroker(self.state)

    def cut(self, user: str) -> None:
        for link in self._links[user]:
            link.cut()

    def heal(self, user: str) -> None:
        for link in self._links[user]:
            link.heal()

    async def alarm(self, *, on: bool) -> None:
        assert self._broker is not None
        self._broker.alarm(on)


@pytest.fixture
def world() -> World:
    return EmbeddedWorld()


class TestEmbedded(BusContract):
    pass
