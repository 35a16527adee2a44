"""Times that both adapters keep to, and the pauses between attempts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

IN_FLIGHT_MAX: Final = 100  # unconfirmed publishes of one bus at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class BusTimings:
    call_limit_s: float = 5.0  # for every call to the broker; then the outcome is unknown
    backoff_min_s: float = 0.5
    backoff_max_s: float = 15.0  # profile `fast`: 1
    canary_every_s: float = 2.0
    canary_limit_s: float = 12.0  # no canary for so long: the connection is given up
    consumers_check_s: float = (
        10.0  # how often the broker is asked whether it still knows our consumers
    )
    retry_min_s: float = 0.5  # a message that its handler could not take goes back after this pause
    retry_max_s: float = 15.0
    # AMQP heartbeat of 5 s: silence is noticed after (heartbeat + 1) * 3.
    heartbeat_s: int = 5

    @property
    def dead_after_s(self) -> float:
        """A peer that is silent for so long is taken for lost."""
        return (self.heartbeat_s + 1) * 3.0


class Clock(Protocol):
    """What a bus needs of the service's clock."""

    def monotonic(self) -> float: ...

    def new_id(self) -> str: ...

    def jitter(self) -> float: ...


def backoff_s(failures: int, jitter: float, timings: BusTimings) -> float:
    """Pause before the next attempt: from the minimum up to a ceiling that doubles each time."""
    low = min(timings.backoff_min_s, timings.backoff_max_s)
    high = min(timings.backoff_max_s, timings.backoff_min_s * 2.0 ** min(failures + 1, 16))
    return low + (high - low) * jitter


def retry_s(returns: int, timings: BusTimings) -> float:
    """How long a message stays with its consumer before it goes back to the queue.

    It grows with each return, so that the delivery limit is not used up by a database's restart.
    """
    return min(timings.retry_max_s, timings.retry_min_s * 2.0 ** min(returns, 16))
