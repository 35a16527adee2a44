"""An event loop on virtual time whose order of callbacks follows from a seed.

- The same seed gives the same interleaving, in any process and on any day; another seed, another
  one.
- Waiting costs nothing: when nothing is ready the clock jumps to the next timer. `pace` slows that
  down for people who watch.
- Every callback belongs to a process, a `(name, life)` pair in a context variable. `crash` drops
all that a process still has to do: none of its `finally` blocks run, as after a kill -9. Its
coroutines are kept until the end, because collecting them would run those blocks after all.
- Threads and sockets are refused: what needs them is behind a port and has a simulated double.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn, TypeVar

Process = tuple[str, int]
Result = TypeVar("Result")

PROCESS: Final[contextvars.ContextVar[Process | None]] = contextvars.ContextVar(
    "process", default=None
)


class LoopStuck(RuntimeError):
    """The run cannot go on: nothing is ready and no timer armed, or too many steps."""


class _Waiting:
    """In place of a selector: to wait is to move the clock."""

    def __init__(self, loop: SeededLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise LoopStuck("nothing is ready and no timer is armed")
        if timeout > 0:
            self._loop.advance(timeout)
        return []

    def get_map(self) -> dict[Any, Any]:
        return {}

    def close(self) -> None:
        pass


class SeededLoop(asyncio.BaseEventLoop):
    """Run coroutines on virtual time, in an order drawn from `seed`.

    `pace`: virtual seconds per real second; None: as fast as the machine can. `steps_max` bounds a
    run that would never end.
    """

    def __init__(
        self, seed: int, *, pace: float | None = None, steps_max: int = 50_000_000
    ) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.pace = pace
        self.steps = 0
        self._steps_max = steps_max
        self._now_s = 0.0
        self._dead: set[Process] = set()
        self._kept: list[asyncio.Task[Any]] = []
        self._kept_after_pruning = 0
        self._digest = hashlib.blake2b(digest_size=8)
        self._selector = _Waiting(self)
        self._clock_resolution = 1e-9
        self._real_start_s = time.monotonic()

    def time(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move the clock; with a pace, also let the real clock catch up."""
        self._now_s += seconds
        if self.pace is not None:
            ahead_s = self._now_s / self.pace - (time.monotonic() - self._real_start_s)
            if ahead_s > 0:
                time.sleep(ahead_s)

    def hurry(self, pace: float | None) -> None:
        """Change the pace from now on."""
        self.pace = pace
        if pace is not None:
            self._real_start_s = time.monotonic() - self._now_s / pace

    def digest(self) -> str:
        """A fingerprint of the run so far: how much was ready at which time, step by step."""
        return self._digest.hexdigest()

    def spawn(
        self, process: Process, work: Coroutine[Any, Any, Any], *, name: str
    ) -> asyncio.Task[Any]:
        """Run `work` as part of a process; whatever it starts belongs to that process too."""
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        return self.create_task(work, name=name, context=context)

    def crash(self, process: Process) -> None:
        """From now on nothing of this process runs any more, not even its clean-up."""
        self._dead.add(process)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = super().create_task(coro, **options)
        self._kept.append(task)
        if len(self._kept) > 2 * self._kept_after_pruning + 1000:
            self._kept = [kept for kept in self._kept if not kept.done()]
            self._kept_after_pruning = len(self._kept)
        return task

    def close_quietly(self) -> None:
        """End the run and let go of what is left.

        Only now, when everything has been judged, are the coroutines of the dead closed; whatever
        their clean-up still tries to do finds no loop and is nobody's concern.
        """
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]
        for task in self._kept:
            setattr(task, "_log_destroy_pending", False)  # noqa: B010 - ended on purpose
            if not task.done():
                with contextlib.suppress(BaseException):
                    task.get_coro().close()
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]
        self.close()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError(f"threads are not simulated: {func!r}")

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _run_once(self) -> None:
        self.steps += 1
        if self.steps > self._steps_max:
            raise LoopStuck(f"more than {self._steps_max} steps at t={self._now_s:.3f} s")
        ready = [
            handle
            for handle in self._ready  # type: ignore[attr-defined]
            if _process_of(handle) not in self._dead
        ]
        if len(ready) > 1:
            self.random.shuffle(ready)
        self._ready.clear()  # type: ignore[attr-defined]
        self._ready.extend(ready)  # type: ignore[attr-defined]
        self._digest.update(b"%d|%.6f;" % (len(ready), self._now_s))
        super()._run_once()  # type: ignore[misc]


def _process_of(handle: Any) -> Process | None:
    """The process that a callback belongs to; asyncio keeps its context to itself."""
    found: Process | None = handle._context.get(PROCESS)  # noqa: SLF001
    return found


def run(
    seed: int, main: Callable[[SeededLoop], Coroutine[Any, Any, Result]], **options: Any
) -> Result:
    """Run `main(loop)` to its end on a fresh loop and drop whatever is left."""
    loop = SeededLoop(seed, **options)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close_quietly()
