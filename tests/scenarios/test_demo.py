"""The demo: its cluster recovers, its verdict can fail, and the same seed tells the same story."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from evac_lab.demo import demo, scenario
from evac_lab.simulated.run import Doubles, simulate
from evac_monitor.core.fencing import PowerState
from evac_monitor.ports import PowerTarget


class PretendsToFence:
    """A power driver that touches nothing and says Off: what fencing is there to prevent."""

    async def power_off(self, target: PowerTarget) -> None:
        pass

    async def power_state(self, target: PowerTarget) -> PowerState:
        return PowerState.OFF

    async def identity(self, target: PowerTarget) -> str | None:
        return None


def _shown(**options: object) -> tuple[int, str]:
    screen = io.StringIO()
    code = demo(Console(file=screen, width=160), paced=False, **options)  # type: ignore[arg-type] # forwarded as given
    return code, screen.getvalue()


@pytest.fixture(scope="module")
def shown() -> tuple[int, str]:
    """The demo, once for all that look at it."""
    return _shown()


def test_a_cut_off_nodes_twelve_instances_come_back_once(shown: tuple[int, str]) -> None:
    code, screen = shown

    assert "12 came back, 0 ran twice, 0 lost" in screen
    assert "node n1: dead, proof power" in screen
    assert code == 0


def test_explain_tells_the_whole_chain_of_a_restart(shown: tuple[int, str]) -> None:
    _, screen = shown

    chain = [
        "last heartbeat of n1",
        "n1 suspected",
        "gates open: n1 is cut off",
        "gate blast_radius: open: 1 of 4 nodes",
        "power attempt 1 on n1: proven",
        "n1 is proven dead (incarnation 1)",
        "n1: refused: state fenced, not up",
        "placed on n2 under epoch 2",
        "start commanded to n2",
        "n2 reported it running",
    ]
    explained = screen.split("$ evac instance explain db-1", 1)[1]
    places = [explained.find(words) for words in chain]
    assert -1 not in places, chain[places.index(-1)]
    assert places == sorted(places)


def test_without_real_fencing_the_demo_finds_instances_that_run_twice_and_fails() -> None:
    code, screen = _shown(doubles=Doubles(power=PretendsToFence()))

    assert "ran twice, on n1 and" in screen
    assert code == 1


@pytest.mark.slow
def test_the_same_seed_tells_the_same_story() -> None:
    def story(seed: int) -> list[str]:
        outcome = simulate(
            scenario(),
            seed=seed,
            on_line=lambda _line: None,
            on_picture=None,
            progress=lambda _text: None,
            doubles=Doubles(),
        )
        return [str(line) for line in outcome.lines]

    assert story(3) == story(3)
