"""An event loop on virtual time whose order of callbacks follows from a seed.

- The same seed gives the same interleaving, in any process and on any day; another seed, another
  one.
- Waiting costs nothing: when nothing is ready the clock jumps to the next timer. `pace` slows that
  down for people who watch.
- Every callback belongs to a process, a `(name, life)` pair in a context variable. `crash` drops
  all that a process still has to do: none of its `finally` blocks run, as after a kill -9. Its
  coroutines are kept until the end, because collecting them would run those blocks after all.
- `suspend` is SIGSTOP: the process's callbacks are parked, its timers that become due are late,
  time goes on. `resume` lets everything parked run at once.
- A process's clock may run fast or slow (`set_rate`): both `time()` as it sees it and its timers.
- Threads and sockets are refused: what needs them is behind a port and has a simulated double.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import hashlib
import heapq
import logging
import random
import time
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple, Unpack

Process = tuple[str, int]
Result = TypeVar("Result")
Ts = TypeVarTuple("Ts")

PROCESS: Final[contextvars.ContextVar[Process | None]] = contextvars.ContextVar(
    "process", default=None
)
_COLLECT_EVERY: Final = 100_000  # steps between two collections of garbage
_CANCELLED_MAX: Final = 200  # cancelled timers that may stay in the heap


class LoopStuck(RuntimeError):
    """The run cannot go on: nothing is ready and no timer armed, or too many steps."""


@dataclass(frozen=True, slots=True)
class _Rate:
    """A process's monotonic clock: at true time `since_s` it showed `shown_s`."""

    since_s: float
    shown_s: float
    factor: float

    def shown_at(self, true_s: float) -> float:
        return self.shown_s + (true_s - self.since_s) * self.factor


class _NoSelector:
    """asyncio's loop closes its selector; this one never had anything to select from."""

    def get_map(self) -> dict[Any, Any]:
        return {}

    def close(self) -> None:
        pass


class SeededLoop(asyncio.BaseEventLoop):
    """Run coroutines on virtual time, in an order drawn from `seed`.

    `pace`: virtual seconds per real second; None: as fast as the machine can. `steps_max` bounds a
    run that would never end. `after_step` is called after each step, in no process; what it raises
    ends the run.
    """

    # asyncio's own, which its type hints keep to themselves.
    _ready: deque[Any]
    _scheduled: list[Any]
    _timer_cancelled_count: int
    _stopping: bool

    def __init__(
        self, seed: int, *, pace: float | None = None, steps_max: int = 50_000_000
    ) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.pace = pace
        self.steps = 0
        self.after_step: list[Callable[[], None]] = []
        self._steps_max = steps_max
        self._now_s = 0.0
        self._dead: set[Process] = set()
        self._parked: dict[Process, list[Any]] = {}
        self._rates: dict[str, _Rate] = {}
        self._kept: list[asyncio.Task[Any]] = []
        self._kept_after_pruning = 0
        self._digest = hashlib.blake2b(digest_size=8)
        self._selector = _NoSelector()
        self._clock_resolution = 1e-9
        self._real_start_s = time.monotonic()

    # -- time ------------------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds on the monotonic clock of the process that asks; in none: true virtual time."""
        return self.time_of(PROCESS.get()) if self._rates else self._now_s

    @property
    def true_time(self) -> float:
        """Virtual time itself, whoever asks."""
        return self._now_s

    def time_of(self, process: Process | None) -> float:
        rate = self._rates.get(process[0]) if process else None
        return self._now_s if rate is None else rate.shown_at(self._now_s)

    def set_rate(self, name: str, factor: float) -> None:
        """From now on this process's clock runs so many seconds per true second; never jumps.

        Holds for all lives of the process: it is its machine's clock. Timers that are armed
        already keep their moment.
        """
        self._rates[name] = _Rate(self._now_s, self.time_of((name, 0)), factor)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """`when` is of the clock of the process that asks, as `time()` is."""
        if self._rates and (process := PROCESS.get()) and (rate := self._rates.get(process[0])):
            when = self._now_s + (when - rate.shown_at(self._now_s)) / rate.factor
        return super().call_at(when, callback, *args, context=context)

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

    # -- processes -------------------------------------------------------------------------------

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
        self._parked.pop(process, None)

    def suspend(self, process: Process) -> None:
        """SIGSTOP: nothing of this process runs until `resume`."""
        if process not in self._dead:
            self._parked.setdefault(process, [])

    def resume(self, process: Process) -> None:
        """SIGCONT: what was parked, and every timer that became due meanwhile, runs now."""
        self._ready.extend(self._parked.pop(process, ()))

    def is_suspended(self, process: Process) -> bool:
        return process in self._parked

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
        self._ready.clear()
        self._scheduled.clear()
        muted = logging.root.manager.disable
        with warnings.catch_warnings():
            # Clean-up that wants to await something has nobody to await it, and libraries say so.
            warnings.simplefilter("ignore", RuntimeWarning)
            logging.disable(logging.CRITICAL)
            for task in self._kept:
                setattr(task, "_log_destroy_pending", False)  # noqa: B010 - ended on purpose
                if not task.done():
                    with contextlib.suppress(BaseException):
                        task.get_coro().close()
                del task
            self._kept.clear()
            self._parked.clear()
            if not gc.isenabled():
                gc.collect()
        logging.disable(muted)
        self._ready.clear()
        self._scheduled.clear()
        self.close()

    # -- what asyncio asks of a loop -------------------------------------------------------------

    def run_in_executor(  # type: ignore[override] # the stub ties func, args and result together
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> NoReturn:
        raise RuntimeError(f"threads are not simulated: {func!r}")

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _run_once(self) -> None:
        """One step, in place of asyncio's: that one runs due timers in no order of the seed's."""
        self.steps += 1
        if self.steps > self._steps_max:
            raise LoopStuck(f"more than {self._steps_max} steps at t={self._now_s:.3f} s")
        if self.steps % _COLLECT_EVERY == 0:
            gc.collect()
        self._forget_cancelled()
        if not self._ready and not self._stopping:
            if not self._scheduled:
                raise LoopStuck("nothing is ready and no timer is armed")
            wait_s = self._scheduled[0].when() - self._now_s
            if wait_s > 0:
                self.advance(wait_s)
        self._take_due()
        ready = self._runnable()
        if len(ready) > 1:
            self.random.shuffle(ready)
        self._digest.update(b"%d|%.6f;" % (len(ready), self._now_s))
        for handle in ready:
            # One that ran just now may have killed or stopped the process of the next.
            if handle.cancelled() or not self._may_run(handle):
                continue
            handle._run()  # noqa: SLF001 - a loop runs its handles, and asyncio has no other way
        for look in self.after_step:
            look()

    def _forget_cancelled(self) -> None:
        scheduled = self._scheduled
        if (
            self._timer_cancelled_count > _CANCELLED_MAX
            and self._timer_cancelled_count > len(scheduled) // 2
        ):
            kept = []
            for handle in scheduled:
                if handle.cancelled():
                    _disarmed(handle)
                else:
                    kept.append(handle)
            heapq.heapify(kept)
            scheduled[:] = kept
            self._timer_cancelled_count = 0
        while scheduled and scheduled[0].cancelled():
            _disarmed(heapq.heappop(scheduled))
            self._timer_cancelled_count -= 1

    def _take_due(self) -> None:
        scheduled, until_s = self._scheduled, self._now_s + self._clock_resolution
        while scheduled and scheduled[0].when() < until_s:
            handle = heapq.heappop(scheduled)
            _disarmed(handle)
            if handle.cancelled():
                self._timer_cancelled_count -= 1
            else:
                self._ready.append(handle)

    def _runnable(self) -> list[Any]:
        """What may run in this step; that of the dead is dropped, that of the stopped is parked."""
        ready = list(self._ready)
        self._ready.clear()
        if not self._dead and not self._parked:
            return ready
        return [handle for handle in ready if self._may_run(handle)]

    def _may_run(self, handle: Any) -> bool:
        if not self._dead and not self._parked:
            return True
        process = handle._context.get(PROCESS)  # noqa: SLF001 - asyncio keeps it to itself
        if process in self._dead:
            return False
        if process in self._parked:
            self._parked[process].append(handle)
            return False
        return True


def _disarmed(handle: Any) -> None:
    """It left the heap; asyncio counts a cancelled timer only while it is in there."""
    handle._scheduled = False  # noqa: SLF001 - the loop's own mark, which it alone may clear


def run(
    seed: int, main: Callable[[SeededLoop], Coroutine[Any, Any, Result]], **options: Any
) -> Result:
    """Run `main(loop)` to its end on a fresh loop and drop whatever is left.

    Garbage is collected at steps of the loop, not when the interpreter likes: a generator that is
    collected has its clean-up scheduled, and that must not happen at another moment next time.
    """
    loop = SeededLoop(seed, **options)
    collecting = gc.isenabled()
    gc.disable()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close_quietly()
        if collecting:
            gc.enable()
