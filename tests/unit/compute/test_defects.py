"""A defect in the work on one instance: said, and the command is tried when it comes again."""

from __future__ import annotations

from typing import Any

import pytest

from evac_common.messages.reports import Started
from evac_compute.actions import Actions
from evac_compute.lanes import FAULTS
from tests.unit.compute.world import World, in_world


def test_a_command_whose_work_ended_by_a_defect_is_taken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, broken = Actions._start, [True]

    async def start(self: Actions, *args: Any, **options: Any) -> None:
        if broken and broken.pop():
            raise ZeroDivisionError("a defect")
        await real(self, *args, **options)

    monkeypatch.setattr(Actions, "_start", start)
    faults = _faults()

    async def test(world: World) -> None:
        await world.into_session()
        command = world.start("web")
        await world.say(command)
        await world.settle()
        assert _faults() == faults + 1
        assert world.journal.load().pending == {}

        await world.say(command)
        await world.hear(Started)
        assert world.executing() == [("web", 1, 1)]

    with pytest.raises(AssertionError, match="ended by a defect"):  # the world's own watch
        in_world(test)


def _faults() -> float:
    return sum(sample.value for metric in FAULTS.collect() for sample in metric.samples[:1])
