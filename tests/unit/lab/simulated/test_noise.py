"""Noise touches the share of messages that it was told to, each touch is told, and calm is calm."""

from __future__ import annotations

from collections import Counter

import pytest

from evac_common.bus.embedded.link import NOW
from evac_common.bus.port import Delivery, Outgoing
from evac_lab.oracle.ports import NoWitness
from evac_lab.scenario.timeline import Noise
from evac_lab.simulated.loop import SeededLoop, run
from evac_lab.simulated.noise import COPIES_MAX, DELAY_MAX_S, BusNoise
from evac_lab.simulated.telling import Telling

MESSAGE = Outgoing(
    exchange="evac.event",
    routing_key="node.up",
    headers={},
    content_type="application/msgpack",
    body=b"x",
    message_id="1",
)
DELIVERY = Delivery(
    exchange="evac.event",
    routing_key="node.up",
    headers={},
    content_type=None,
    body=b"x",
    message_id="1",
    user_id=None,
)


class Notes(NoWitness):
    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()

    def fault(self, component: str, kind: str, at_s: float) -> None:
        self.faults[f"{component} {kind}"] += 1


def noise_of(kind: Noise, percent: float) -> tuple[BusNoise, Notes]:
    notes = Notes()

    async def main(loop: SeededLoop) -> BusNoise:
        return BusNoise(loop.random, Telling(loop, notes))

    made = run(1, main)
    made.set(kind, percent)
    return made, notes


@pytest.mark.parametrize("kind", [Noise.LOSE, Noise.DUPLICATE, Noise.DELAY, Noise.REORDER])
def test_the_share_is_kept_and_each_touch_is_told(kind: Noise) -> None:
    noise, notes = noise_of(kind, 20)

    published = [noise.publishing(MESSAGE) for _ in range(1000)]
    delivered = [noise.delivering("q", DELIVERY) for _ in range(1000)]

    touched = sum(fate != NOW for fate in (*published, *delivered))
    assert 300 < touched < 500
    assert notes.faults == {f"B {kind.value}": touched}


def test_a_lost_message_or_its_confirmation_is_lost_and_a_lost_delivery_is_lost() -> None:
    noise, _ = noise_of(Noise.LOSE, 100)

    fates = {noise.publishing(MESSAGE).delays_s for _ in range(100)}

    assert fates == {(), (0.0,)}
    assert not noise.publishing(MESSAGE).answered
    assert noise.delivering("q", DELIVERY).delays_s == ()


def test_copies_and_delays_keep_to_their_bounds() -> None:
    noise, _ = noise_of(Noise.DUPLICATE, 100)
    copies = {len(noise.publishing(MESSAGE).delays_s) - 1 for _ in range(500)}
    assert copies == set(range(1, COPIES_MAX + 1))

    noise, _ = noise_of(Noise.DELAY, 100)
    delays_s = [noise.delivering("q", DELIVERY).delays_s[0] for _ in range(500)]
    assert max(delays_s) <= DELAY_MAX_S
    assert sum(delay_s < 60 for delay_s in delays_s) > 200
    assert sum(delay_s > 600 for delay_s in delays_s) > 30


def test_calm_and_zero_end_it() -> None:
    noise, notes = noise_of(Noise.LOSE, 100)
    noise.set(Noise.DELAY, 100)
    noise.set(Noise.LOSE, 0)
    assert noise.publishing(MESSAGE).answered
    noise.set(Noise.CALM, 0)
    before = dict(notes.faults)
    assert noise.publishing(MESSAGE) is NOW
    assert noise.delivering("q", DELIVERY) is NOW
    assert notes.faults == before
