"""A service as a process of the simulation: killed, stopped or hung at any await; supervised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog

from evac_lab.simulated.loop import PROCESS, Process, SeededLoop

RESTART_AFTER_S: Final = 5.0  # what a service manager needs to notice and start again
STOP_LIMIT_S: Final = 10.0  # SIGTERM, and after this SIGKILL


@dataclass(slots=True)
class Life:
    """One run of the program. `stop` is SIGTERM's event, which the service waits for; `leaving`
    says that its machine shuts down.
    """

    number: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)  # however it ended


class Kernel(Protocol):
    """What happens around a process, in no process's own context."""

    def bury(self, name: str) -> None:
        """It ended: close its sockets and files, after nothing of it runs any more."""

    def froze(self, name: str) -> None:
        """It was stopped: its sockets stay open and nobody speaks on them."""

    def thawed(self, name: str) -> None: ...

    def told(self, name: str, what: str) -> None:
        """started, killed, hung, resumed, stopped or failed: for the witness."""


class SimulatedProcess:
    """Runs `body(life)` under a supervisor. `body` builds the service and runs it."""

    def __init__(
        self,
        loop: SeededLoop,
        name: str,
        body: Callable[[Life], Awaitable[Any]],
        *,
        kernel: Kernel,
    ) -> None:
        self.name = name
        self.faults: list[str] = []  # lives that ended by an error of their own
        self._lives = 0
        self._loop = loop
        self._body = body
        self._kernel = kernel
        self._life: Life | None = None
        self._wanted = False
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._life is not None

    @property
    def hung(self) -> bool:
        return self._loop.is_suspended(self.process)

    @property
    def process(self) -> Process:
        """The present life, as the loop knows it."""
        return (self.name, self._lives)

    async def death(self) -> None:
        """Return when the present life is over; at once when there is none."""
        if self._life is not None:
            await self._life.over.wait()

    def start(self) -> None:
        """Switch the supervisor on: the machine booted, or the service manager was asked to."""
        self._wanted = True
        if self._supervisor is None:
            self._supervisor = self._loop.create_task(
                self._supervise(), name=f"supervisor of {self.name}"
            )

    def cut(self) -> None:
        """The machine lost power: killed, and not restarted."""
        self._wanted = False
        self.kill()
        self._leave()

    def stop(self) -> None:
        """SIGTERM, later SIGKILL; it stays stopped until `start`."""
        self._wanted = False
        life = self._life
        if life is None:
            self._leave()
            return
        life.stop.set()
        self._loop.call_later(STOP_LIMIT_S, self._insist, life)

    def leave(self) -> None:
        """Its machine shuts down: it may tidy up, and is not started again."""
        self._wanted = False
        if self._life is None:
            self._leave()
        else:
            self._life.leaving.set()

    def kill(self) -> None:
        """kill -9: nothing of this life runs any more; the supervisor starts the next one."""
        if self._life is not None:
            self._over("killed")

    def hang(self) -> None:
        """SIGSTOP."""
        if self._life is not None and not self.hung:
            self._loop.suspend(self.process)
            self._kernel.froze(self.name)
            self._kernel.told(self.name, "hung")

    def resume(self) -> None:
        """SIGCONT."""
        if self._life is not None and self.hung:
            self._kernel.thawed(self.name)
            self._loop.resume(self.process)
            self._kernel.told(self.name, "resumed")

    def _insist(self, life: Life) -> None:
        if self._life is life:
            self.kill()

    def _leave(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            self._supervisor = None

    async def _supervise(self) -> None:
        while True:
            self._lives += 1
            life = self._life = Life(self._lives)
            self._kernel.told(self.name, "started")
            task = self._loop.spawn(self.process, self._run(life), name=self.name)
            over = asyncio.ensure_future(life.over.wait())
            await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            if self._life is life:
                self._ended(life, task)
            if not self._wanted:
                self._supervisor = None
                return
            await asyncio.sleep(RESTART_AFTER_S)

    async def _run(self, life: Life) -> None:
        assert PROCESS.get() == self.process
        await self._body(life)

    def _ended(self, life: Life, task: asyncio.Task[None]) -> None:
        """The life ended by itself: as asked, or it is as wrong as a crash, and remembered."""
        error = task.exception() if not task.cancelled() else None
        if life.stop.is_set() and error is None and not task.cancelled():
            self._over("stopped")
            return
        self.faults.append(f"{self.name}: {error!r}")
        structlog.get_logger().error("a service ended by itself", service=self.name, exc_info=error)
        self._over("failed")

    def _over(self, what: str) -> None:
        life = self._life
        assert life is not None, "only a life can end"
        self._loop.crash(self.process)
        self._life = None
        life.over.set()
        self._kernel.bury(self.name)
        self._kernel.told(self.name, what)
