"""Events at their true moments, whatever a scenario did to clocks and database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from evac_lab.scenario.timeline import (
    Action,
    ClockJump,
    ClockRate,
    Database,
    DatabaseState,
)
from evac_lab.watch import ApiAway, EventWatch, Wall


class Api:
    """An event table behind HTTP; `up` False: it answers 503."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.up = True

    def happen(self, service: str, shown_s: float, name: str = "node.up") -> None:
        time = EventWatch(api=self.client, at_s=lambda: 0.0, tell=print).zero
        self.events.append(
            {
                "sequence": len(self.events) + 1,
                "service": service,
                "name": name,
                "time": (time + timedelta(seconds=shown_s)).isoformat(),
                "data": {"node": "n1"},
            }
        )

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        if not self.up:
            return httpx2.Response(503, text="the database is away")
        after = int(request.url.params["after"])
        page = [event for event in self.events if event["sequence"] > after]
        return httpx2.Response(200, json={"items": page[:2]})

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            transport=httpx2.MockTransport(self.answer), base_url="http://api"
        )


class Story:
    """A watch whose time line stands where the test puts it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.api = Api()
        self.told: list[tuple[str, float]] = []
        client = self.api.client()
        self.watch = EventWatch(api=lambda: client, at_s=lambda: self.now_s, tell=self._tell)

    def _tell(self, event: Mapping[str, Any], at_s: float) -> None:
        self.told.append((event["name"], round(at_s, 6)))

    async def act(self, at_s: float, action: Action) -> None:
        self.now_s = at_s
        await self.watch.before(action)

    async def moments(self, now_s: float) -> list[float]:
        self.now_s = now_s
        await self.watch.look()
        return [at_s for _, at_s in self.told]


@pytest.fixture
def story() -> Story:
    return Story()


async def test_every_event_is_told_once_however_many_pages_there_are(story: Story) -> None:
    for second in range(5):
        story.api.happen("monitor", float(second))

    assert await story.moments(9.0) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert len(await story.moments(9.0)) == 5


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
async def test_an_event_of_a_service_whose_clock_was_set_has_its_true_moment(
    story: Story, seconds: float
) -> None:
    story.api.happen("monitor", 9.0)
    await story.act(10.0, ClockJump(target="monitor", seconds=seconds))
    story.api.happen("monitor", 20.0 + seconds)
    story.api.happen("scheduler", 21.0)

    assert await story.moments(25.0) == [9.0, 20.0, 21.0]


async def test_an_event_of_a_service_whose_clock_runs_fast_has_its_true_moment(
    story: Story,
) -> None:
    await story.act(100.0, ClockRate(target="monitor", percent=1.0))
    story.api.happen("monitor", 202.0 - 1.0)  # 100 s later by the others' clocks
    await story.act(200.0, ClockRate(target="monitor", percent=0.0))
    story.api.happen("monitor", 301.0)

    assert await story.moments(310.0) == [200.0, 300.0]


async def test_after_the_database_went_back_new_events_are_told_although_their_numbers_are_old(
    story: Story,
) -> None:
    story.api.happen("monitor", 1.0)
    await story.act(5.0, Database(state=DatabaseState.SAVE, times=1))
    story.api.happen("monitor", 6.0)
    await story.act(10.0, Database(state=DatabaseState.RESTORE, times=1))
    story.api.events.pop()
    story.api.happen("monitor", 12.0)

    assert await story.moments(15.0) == [1.0, 6.0, 12.0]


async def test_an_api_that_is_away_holds_up_nothing_and_is_said_when_asked(story: Story) -> None:
    story.api.up = False

    await story.act(5.0, Database(state=DatabaseState.SAVE, times=1))
    with pytest.raises(ApiAway, match="503: the database is away"):
        await story.watch.look()


async def test_an_api_that_never_answers_does_not_stop_the_time_line() -> None:
    async def silence(_request: httpx2.Request) -> httpx2.Response:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    client = httpx2.AsyncClient(transport=httpx2.MockTransport(silence), base_url="http://api")
    watch = EventWatch(api=lambda: client, at_s=lambda: 0.0, tell=print)

    async with asyncio.timeout(5):
        await watch.before(ClockRate(target="n1", percent=1.0))


def test_a_clock_that_went_back_showed_some_times_twice() -> None:
    wall = Wall()
    wall.jump(100.0, -50.0)

    assert wall.moments(80.0, 200.0) == [80.0, 130.0]
    assert wall.moments(80.0, 110.0) == [80.0]
