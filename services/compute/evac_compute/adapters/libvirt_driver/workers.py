"""A bounded pool of threads for calls that block, with a time limit per call.

Not an executor of the standard library: those wait for their threads when the program ends, and a
call that hangs in libvirt would keep a stopped daemon alive.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from evac_compute.ports import HypervisorUnreachable

Result = TypeVar("Result")


class _Job(Generic[Result]):
    """One call. Whoever claims it first decides: the thread that runs it, or the caller that gave
    up.
    """

    def __init__(self, call: Callable[[], Result], done: asyncio.Future[Result]) -> None:
        self.call = call
        self.done = done
        self._claim = threading.Lock()

    def claim(self) -> bool:
        return self._claim.acquire(blocking=False)


class Workers:
    def __init__(self, *, threads: int, name: str) -> None:
        self._threads, self._name = threads, name
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._started = 0

    async def run(self, call: Callable[[], Result], *, limit_s: float, what: str) -> Result:
        """The call's result or error; HypervisorUnreachable when it takes too long.

        A call that no thread had begun by then never runs; one that was begun may still take
        effect.
        """
        self._start()
        job: _Job[Result] = _Job(call, asyncio.get_running_loop().create_future())
        self._jobs.put(job)
        try:
            async with asyncio.timeout(limit_s):
                return await job.done
        except TimeoutError as error:
            raise HypervisorUnreachable(f"no answer to {what} in {limit_s} s") from error
        finally:
            job.claim()

    def close(self) -> None:
        """Let idle threads end; one that hangs is left to the end of the process."""
        for _ in range(self._started):
            self._jobs.put(None)
        self._started = 0

    def _start(self) -> None:
        while self._started < self._threads:
            self._started += 1
            threading.Thread(
                target=self._work, name=f"{self._name} {self._started}", daemon=True
            ).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.claim():
                continue
            loop = job.done.get_loop()
            try:
                result = job.call()
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the caller's
                settle = functools.partial(_fail, job.done, error)
            else:
                settle = functools.partial(_succeed, job.done, result)
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle)


def _succeed(done: asyncio.Future[Any], result: Any) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
