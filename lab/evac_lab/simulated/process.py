"""A service as a process of the simulation: killed at any await, restarted by a supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from evac_lab.simulated.loop import PROCESS, Process, SeededLoop

RESTART_AFTER_S = 5.0  # what a service manager needs to notice and start again


class SimulatedProcess:
    """Runs `body(life)` under a supervisor.

    `body` builds the service and runs it; `on_death(life)` is what the kernel does at a kill -9:
    close the process's sockets and files. It runs outside the process, after nothing of it runs
    any more.
    """

    def __init__(
        self,
        loop: SeededLoop,
        name: str,
        body: Callable[[int], Awaitable[Any]],
        *,
        on_death: Callable[[int], None],
    ) -> None:
        self.name = name
        self.life = 0
        self.faults: list[str] = []  # lives that ended by an error of their own
        self._loop = loop
        self._body = body
        self._on_death = on_death
        self._killed: asyncio.Event | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._killed is not None

    @property
    def process(self) -> Process:
        """The present life, as the loop knows it."""
        return (self.name, self.life)

    async def death(self) -> None:
        """Return when the present life is over; at once when there is none."""
        if self._killed is not None:
            await self._killed.wait()

    def start(self) -> None:
        """Switch the supervisor on (the machine booted)."""
        if self._supervisor is None:
            self._supervisor = self._loop.create_task(
                self._supervise(), name=f"supervisor of {self.name}"
            )

    def stop(self) -> None:
        """The machine lost power: kill, and do not restart."""
        self.kill()
        if self._supervisor is not None:
            self._supervisor.cancel()
            self._supervisor = None

    def kill(self) -> None:
        """kill -9: nothing of this life runs any more; the supervisor starts the next one."""
        if self._killed is not None:
            self._loop.crash(self.process)
            self._killed.set()
            self._killed = None
            self._on_death(self.life)

    async def _supervise(self) -> None:
        while True:
            self.life += 1
            killed = self._killed = asyncio.Event()
            task = self._loop.spawn(self.process, self._run(), name=self.name)
            death = asyncio.ensure_future(killed.wait())
            await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
            death.cancel()
            if task.done() and not killed.is_set():
                self._fault(task)
            await asyncio.sleep(RESTART_AFTER_S)

    async def _run(self) -> None:
        assert PROCESS.get() == self.process
        await self._body(self.life)

    def _fault(self, task: asyncio.Task[None]) -> None:
        """The life ended by itself: as wrong as a crash, and remembered."""
        error = task.exception() if not task.cancelled() else None
        self.faults.append(f"{self.name}: {error!r}")
        structlog.get_logger().error("a service ended by itself", service=self.name, exc_info=error)
        self._loop.crash(self.process)
        self._killed = None
        self._on_death(self.life)
