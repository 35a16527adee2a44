"""The reconcilers' engine: one step, again and again, woken by a signal and by a timer.

A step takes no input and re-reads everything, so the path after a restart is the ordinary path. A
failure is never lost and never ends the loop: this is the one place that catches everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from prometheus_client import Counter, Histogram

from evac_common.errors import Retryable
from evac_common.service.clock import Clock

STEPS = Counter("evac_loop_steps_total", "Steps of a reconciler, by outcome.", ["loop", "outcome"])
TOOK = Histogram("evac_loop_step_seconds", "Time one step of a reconciler took.", ["loop"])

BACKOFF_MAX_S = 15.0


class Wake:
    """A nudge from a handler: "look now". Many nudges before the loop looks are one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Return when nudged or when the time is over, whichever is first."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()


async def periodically(
    name: str,
    period_s: float | Callable[[], float],
    step: Callable[[], Awaitable[object]],
    *,
    clock: Clock,
    wake: Wake | None = None,
    log: Any = None,
) -> None:
    """Run `step` at once, then every `period_s` or when woken, for ever.

    `period_s` may depend on what the last step found: it is asked after each.
    A `Retryable` (broker or database away) is logged when it begins and when it ends, and retried
    with a growing pause; any other exception is logged with its traceback and counted.
    """
    log = log or structlog.get_logger()
    wake = wake or Wake()
    took = TOOK.labels(name)
    failures = 0
    while True:
        began_s = clock.monotonic()
        try:
            await step()
            outcome = "ok"
            if failures:
                log.info("loop works again", loop=name, failures=failures)
            failures = 0
        except Retryable as error:
            outcome = "retryable"
            failures += 1
            if failures == 1:
                log.warning("loop waits", loop=name, why=str(error))
        except Exception:
            outcome = "error"
            failures += 1
            log.exception("loop step failed", loop=name)
        STEPS.labels(name, outcome).inc()
        took.observe(clock.monotonic() - began_s)
        next_s = period_s() if callable(period_s) else period_s
        if failures:
            pause_s = min(BACKOFF_MAX_S, max(next_s, 0.5 * 2 ** min(failures, 6)))
            await asyncio.sleep(pause_s * (0.75 + clock.jitter() / 2))
        else:
            await wake.wait(next_s)
