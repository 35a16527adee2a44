"""One thing at a time per instance, many instances at once.

A bus handler only journals and submits; what takes long happens here. A lane ends when it has
nothing left to do, so the lanes that exist are the instances being worked on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from prometheus_client import Counter

Work = Callable[[], Awaitable[None]]

FAULTS = Counter("evac_compute_lane_faults_total", "Work on an instance that ended by a defect.")


class Lanes:
    def __init__(self, *, actions_max: int, log: Any = None) -> None:
        self._log = log or structlog.get_logger()
        self._waiting: dict[str, deque[Work]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(actions_max)
        self._count = 0
        self._touched: dict[str, int] = {}

    @property
    def idle(self) -> bool:
        return not self._tasks

    def is_busy(self, instance_id: str) -> bool:
        return instance_id in self._tasks

    def mark(self) -> int:
        """A moment; `quiet_since` tells whether an instance was left alone from then on."""
        return self._count

    def quiet_since(self, instance_id: str, mark: int) -> bool:
        return not self.is_busy(instance_id) and self._touched.get(instance_id, 0) <= mark

    async def quiet(self) -> None:
        """Wait until everything that was submitted so far has ended."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def submit(self, instance_id: str, work: Work) -> None:
        """Do `work` after everything submitted for this instance before."""
        self._touch(instance_id)
        self._waiting.setdefault(instance_id, deque()).append(work)
        if instance_id not in self._tasks:
            self._tasks[instance_id] = asyncio.create_task(
                self._drain(instance_id), name=f"work on instance {instance_id}"
            )

    async def do(self, instance_id: str, work: Work) -> None:
        """Submit and wait for the end; an error of `work` is raised here."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def tell() -> None:
            try:
                await work()
            except BaseException as error:
                if not done.done():
                    done.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                if not done.done():
                    done.set_result(None)

        self.submit(instance_id, tell)
        await done

    async def close(self) -> None:
        """Drop what is left; what matters of it is in the journal."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _drain(self, instance_id: str) -> None:
        waiting = self._waiting[instance_id]
        try:
            while waiting:
                work = waiting.popleft()
                async with self._slots:
                    await self._run(instance_id, work)
                self._touch(instance_id)
        finally:
            del self._tasks[instance_id], self._waiting[instance_id]

    async def _run(self, instance_id: str, work: Work) -> None:
        try:
            await work()
        except Exception:  # noqa: BLE001 - a defect in one instance's work must not stop the others'
            FAULTS.inc()
            self._log.exception("work on an instance failed", instance_id=instance_id)

    def _touch(self, instance_id: str) -> None:
        self._count += 1
        self._touched[instance_id] = self._count
