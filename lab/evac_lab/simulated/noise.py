"""Noise on the bus: a share of all messages is lost, comes again, late, or out of order.

Each message is drawn for twice: on its way into the broker and on its way out of it.
"""

from __future__ import annotations

import random
from typing import Final

from evac_common.bus.embedded import Fate
from evac_common.bus.embedded.link import NOW
from evac_common.bus.port import Delivery, Outgoing
from evac_lab.scenario.timeline import Noise
from evac_lab.simulated.telling import BUS, Telling

COPIES_MAX: Final = 5  # of a duplicated message, beside the message itself
COPY_WITHIN_S: Final = 30.0
DELAY_MIN_S: Final = 0.1
DELAY_MAX_S: Final = 3600.0
REORDER_WITHIN_S: Final = 1.0  # so that what was sent later may come first


class BusNoise:
    """`Faults` of every link of the cluster; one for all of them."""

    def __init__(self, chance: random.Random, telling: Telling) -> None:
        self._chance = chance
        self._telling = telling
        self._shares: dict[Noise, float] = {}

    def set(self, kind: Noise, percent: float) -> None:
        if kind is Noise.CALM:
            self._shares.clear()
        elif percent > 0:
            self._shares[kind] = percent / 100
        else:
            self._shares.pop(kind, None)

    def publishing(self, message: Outgoing) -> Fate:
        if not self._shares:
            return NOW
        if self._hit(Noise.LOSE):
            # The message itself, or its confirmation: the publisher cannot tell which.
            arrives = self._chance.random() < 0.5
            return Fate((0.0,) if arrives else (), answered=False)
        return Fate(self._arrivals())

    def delivering(self, queue: str, delivery: Delivery) -> Fate:
        if not self._shares:
            return NOW
        if self._hit(Noise.LOSE):
            return Fate(())
        return Fate(self._arrivals())

    def _arrivals(self) -> tuple[float, ...]:
        first_s = 0.0
        if self._hit(Noise.REORDER):
            first_s += self._chance.uniform(0.0, REORDER_WITHIN_S)
        if self._hit(Noise.DELAY):
            # Seconds are as likely as minutes.
            first_s += DELAY_MIN_S * (DELAY_MAX_S / DELAY_MIN_S) ** self._chance.random()
        if not self._hit(Noise.DUPLICATE):
            return (first_s,)
        copies = self._chance.randint(1, COPIES_MAX)
        return (
            first_s,
            *(first_s + self._chance.uniform(0.0, COPY_WITHIN_S) for _ in range(copies)),
        )

    def _hit(self, kind: Noise) -> bool:
        share = self._shares.get(kind)
        if share is None or self._chance.random() >= share:
            return False
        self._telling.fault(BUS, kind.value)
        return True
