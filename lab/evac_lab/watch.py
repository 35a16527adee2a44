"""What evac says happened: its events, read over its API, with their moments on the time line.

An event carries the wall clock of the service that wrote it, and a scenario may set that clock; and
a database may go back in time, and with it the events' numbers. Both are the scenario's own doing,
so the watch is told of them and still gives every event once and at its true moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import httpx2

from evac_common.errors import EvacError
from evac_lab.scenario.timeline import (
    Action,
    ClockJump,
    ClockRate,
    Database,
    DatabaseState,
    controller_of,
)

Event = Mapping[str, Any]
PAGE: Final = 500
LAST_LOOK_S: Final = 0.5  # before the database goes back: what it holds now would be gone
GLANCE_S: Final = 0.01  # before any other action: for the order of lines, and worth no waiting
IN_FUTURE_S: Final = 0.5  # a reading of two clocks, one after the other


class LabFailed(EvacError):
    """The lab itself could not do its part (the cluster did not come up in time)."""

    code = "lab.failed"


class ApiAway(EvacError):
    """The api does not answer, or says that it cannot now; perhaps on purpose."""

    code = "lab.api_away"


async def call(api: httpx2.AsyncClient, method: str, path: str, body: Any = None) -> Any:
    """One call of the api. Raises ApiAway; LabFailed with the api's own words when it refuses."""
    try:
        answer = await api.request(method, path, json=body)
    except httpx2.TransportError as error:
        raise ApiAway(f"{method} {path}: {error!r}") from error
    if answer.status_code >= 500:
        raise ApiAway(f"{method} {path}: {answer.status_code}: {answer.text[:2000]}")
    if answer.status_code >= 400:
        raise LabFailed(f"{method} {path}: {answer.status_code}: {answer.text[:2000]}")
    return answer.json() if answer.content else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A time in which a wall clock ran evenly: it showed t + ahead_s + rate (t - from_s)."""

    from_s: float
    ahead_s: float
    rate: float


class Wall:
    """What a wall clock showed at each moment of the time line, as far as a scenario touched it."""

    def __init__(self) -> None:
        self._stretches = [Stretch(from_s=-math.inf, ahead_s=0.0, rate=0.0)]

    def jump(self, at_s: float, seconds: float) -> None:
        self._turn(at_s, self._ahead_s(at_s) + seconds, self._stretches[-1].rate)

    def run(self, at_s: float, rate: float) -> None:
        self._turn(at_s, self._ahead_s(at_s), rate)

    def moments(self, shown_s: float, now_s: float) -> list[float]:
        """When it showed that, up to now: a clock that went back shows some times twice."""
        ends = [stretch.from_s for stretch in self._stretches[1:]] + [now_s + IN_FUTURE_S]
        found = []
        for stretch, end_s in zip(self._stretches, ends, strict=True):
            start_s = 0.0 if stretch.rate == 0.0 else stretch.from_s
            moment_s = (shown_s - stretch.ahead_s + stretch.rate * start_s) / (1 + stretch.rate)
            if stretch.from_s <= moment_s <= end_s:
                found.append(moment_s)
        return found

    def _ahead_s(self, at_s: float) -> float:
        last = self._stretches[-1]
        return last.ahead_s + (last.rate * (at_s - last.from_s) if last.rate else 0.0)

    def _turn(self, at_s: float, ahead_s: float, rate: float) -> None:
        self._stretches.append(Stretch(from_s=at_s, ahead_s=ahead_s, rate=rate))


@dataclass(slots=True, kw_only=True)
class EventWatch:
    """Reads events in order; `tell(event, at_s)` gets each of them once."""

    api: Callable[[], httpx2.AsyncClient]
    at_s: Callable[[], float]  # now, on the time line
    tell: Callable[[Event, float], None]
    zero: datetime = field(default_factory=lambda: datetime.fromtimestamp(0, UTC))
    _last: int = 0
    _saved: int = 0
    _walls: dict[str, Wall] = field(default_factory=dict)  # process → its wall clock, if touched
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def skip(self) -> None:
        """What happened up to now is not part of the run. Raises ApiAway."""
        while page := await self._after(self._last):
            self._last = page[-1]["sequence"]

    async def look(self) -> None:
        """Tell all that is new. Raises ApiAway."""
        async with self._looking:
            while page := await self._after(self._last):
                for event in page:
                    self._last = event["sequence"]
                    self.tell(event, self._moment_s(event))

    async def before(self, action: Action) -> None:
        """Tell what came before, and prepare for what will be done to clocks and database."""
        match action:
            case ClockJump(target=target, seconds=seconds):
                await self._glance(GLANCE_S)
                self._wall(target).jump(self.at_s(), seconds)
            case ClockRate(target=target, percent=percent):
                await self._glance(GLANCE_S)
                self._wall(target).run(self.at_s(), percent / 100)
            case Database(state=DatabaseState.SAVE):
                await self._glance(LAST_LOOK_S)
                self._saved = self._last
            case Database(state=DatabaseState.RESTORE):
                await self._glance(LAST_LOOK_S)
                self._last = self._saved
            case _:
                await self._glance(GLANCE_S)

    async def _glance(self, limit_s: float) -> None:
        # Events that nobody can see now are not in the log either.
        with contextlib.suppress(TimeoutError, ApiAway):
            await asyncio.wait_for(self.look(), limit_s)

    async def _after(self, sequence: int) -> list[dict[str, Any]]:
        path = f"/v1/events?after={sequence}&limit={PAGE}"
        answer = await call(self.api(), "GET", path)
        found: list[dict[str, Any]] = answer["items"]
        return found

    def _wall(self, target: str) -> Wall:
        return self._walls.setdefault(target, Wall())

    def _moment_s(self, event: Event) -> float:
        """When it happened, in seconds of the time line.

        Of the moments at which its service's clocks showed that time, the latest one.
        """
        said_s = (datetime.fromisoformat(event["time"]) - self.zero).total_seconds()
        now_s = self.at_s()
        moments = [
            moment
            for target, wall in self._walls.items()
            if (known := controller_of(target)) is not None and known[0] == event["service"]
            for moment in wall.moments(said_s, now_s)
        ]
        return max(moments, default=said_s)
