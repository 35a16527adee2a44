"""What evac says happened: its events, read over its API, with their moments on the time line.

An event carries the wall clock of the service that wrote it, and a scenario may set that clock; and
a database may go back in time, and with it the events' numbers. Both are the scenario's own doing,
so the watch is told of them and still gives every event once and at its true moment.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx2

from evac_common.errors import EvacError
from evac_lab.scenario.timeline import (
    Action,
    ClockJump,
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


@dataclass(slots=True, kw_only=True)
class EventWatch:
    """Reads events in order; `tell(event, at_s)` gets each of them once."""

    api: Callable[[], httpx2.AsyncClient]
    at_s: Callable[[], float]  # now, on the time line
    tell: Callable[[Event, float], None]
    zero: datetime = field(default_factory=lambda: datetime.fromtimestamp(0, UTC))
    _last: int = 0
    _saved: int = 0
    _offsets_s: dict[str, list[float]] = field(default_factory=dict)  # service → clock settings
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
                if (known := controller_of(target)) is not None:
                    offsets = self._offsets_s.setdefault(known[0], [0.0])
                    offsets += [offset + seconds for offset in offsets]
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

    def _moment_s(self, event: Event) -> float:
        """When it happened, in seconds of the time line.

        Of the clocks that its service may have shown then, the one that gives the latest moment
        which is not in the future.
        """
        said = datetime.fromisoformat(event["time"]) - self.zero
        now_s = self.at_s()
        moments = [
            (said - timedelta(seconds=offset)).total_seconds()
            for offset in self._offsets_s.get(event["service"], [0.0])
        ]
        past = [moment for moment in moments if moment <= now_s + IN_FUTURE_S]
        return max(past) if past else now_s
