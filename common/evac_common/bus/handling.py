"""Running a handler, alike in both adapters: whatever it does, a verdict comes out."""

from __future__ import annotations

import asyncio
from typing import Any

from evac_common.bus.port import BusCounters, Delivery, Handler, Verdict
from evac_common.bus.timings import BusTimings, retry_s


async def verdict_of(
    handler: Handler,
    delivery: Delivery,
    *,
    queue: str,
    timings: BusTimings,
    counters: BusCounters,
    log: Any,
) -> Verdict:
    """The handler's verdict; RETRY for an exception. A RETRY is answered only after its pause.

    Cancellation of the running task (the connection is lost) passes through: the broker has the
    message back by then.
    """
    counters.delivered += 1
    try:
        verdict = await handler(delivery)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Something inside the handler was cancelled, not the handler: an ordinary failure.
        log.exception("message handler failed", queue=queue, message_id=delivery.message_id)
        verdict = Verdict.RETRY
    except Exception:  # the one place that must outlive whatever a handler does
        log.exception("message handler failed", queue=queue, message_id=delivery.message_id)
        verdict = Verdict.RETRY
    if verdict is Verdict.RETRY:
        counters.retried += 1
        await asyncio.sleep(retry_s(delivery.returns, timings))
    elif verdict is Verdict.REJECT:
        counters.rejected += 1
    return verdict
