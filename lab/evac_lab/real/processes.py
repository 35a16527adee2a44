"""Long-lived programs: started as their own session, found again by another process, killed surely.

`subprocess.Popen` and not an asyncio subprocess: a broker outlives the event loop of the test that
started it, whereas an asyncio transport kills its child when its loop goes. Nothing here blocks
longer than a fork.

A process is known by its id *and* the kernel's start time, so that a number used again by a
stranger is never signalled.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evac_lab.real.errors import CannotRunHere, LabError, NotReady
from evac_lab.real.packages import find_program

POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """One process, for ever: (pid, start time in clock ticks since boot)."""

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has this number now; None when there is none, or only its zombie."""
        ticks = _start_ticks(pid)
        return None if ticks is None else cls(pid=pid, started_ticks=ticks)

    def is_alive(self) -> bool:
        return _start_ticks(self.pid) == self.started_ticks

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; False when the process is gone already."""
        if not self.is_alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def __str__(self) -> str:
        return f"{self.pid}:{self.started_ticks}"

    @classmethod
    def parse(cls, text: str) -> ProcessId:
        pid, _, ticks = text.strip().partition(":")
        return cls(pid=int(pid), started_ticks=int(ticks))


def _start_ticks(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name, in brackets, may hold anything: read from after the last bracket.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


# Children that nobody waited for yet. Kept, because a Popen that is collected while its process
# runs complains, and a program that outlives us is meant to run.
_CHILDREN: list[subprocess.Popen[bytes]] = []


class Daemon:
    """One program of the lab, its log file and its process, written to `<name>.pid`.

    Dies with its starter (by the kernel, also after kill -9), unless `outlives_starter`. The kernel
    takes the starting *thread* for the starter: start from the main thread.
    """

    def __init__(self, *, name: str, directory: Path, outlives_starter: bool = False) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._pid_file = directory / f"{name}.pid"
        self._outlives_starter = outlives_starter

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        network: str | None = None,
    ) -> ProcessId:
        """Start the program, as `user`, in the named network namespace. Raises LabError if it runs.

        The environment is `env` alone, plus PATH: nothing of the caller's leaks in.
        """
        if self.is_running():
            raise LabError("this program of the lab runs already", program=self.name)
        command = [*_wrappers(user, network, keep=self._outlives_starter), *argv]
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                command,
                env={"PATH": _SYSTEM_PATH, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _CHILDREN.append(child)
        identity = ProcessId.of(child.pid)
        if identity is None:
            raise NotReady("a program ended at once", program=self.name, log=self.log_tail())
        self._pid_file.write_text(f"{identity}\n")
        return identity

    @property
    def process(self) -> ProcessId | None:
        """The process while it lives, whoever started it."""
        reap()
        try:
            identity = ProcessId.parse(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return identity if identity.is_alive() else None

    def is_running(self) -> bool:
        return self.process is not None

    async def kill9(self) -> None:
        """SIGKILL to the program and to all it started in its session; returns when it is gone."""
        await self._end(signal.SIGKILL, deadline_s=10.0)

    async def terminate(self, *, deadline_s: float = 20.0) -> None:
        """SIGTERM, and SIGKILL when the deadline passes; returns when it is gone."""
        process = self.process
        if process is not None and process.signal(signal.SIGTERM):
            try:
                await until(lambda: not self.is_running(), deadline_s=deadline_s, what=self.name)
            except NotReady:
                await self.kill9()
        self._pid_file.unlink(missing_ok=True)

    def pause(self) -> None:
        """SIGSTOP to the program and its session: it holds its connections and does nothing."""
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_group(signal.SIGCONT)

    def kill9_now(self) -> None:
        """As `kill9`, without waiting: for exits where no event loop runs any more."""
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        process = self.process
        if process is not None:
            _kill_group(process, number)

    def wait_gone(self, *, deadline_s: float) -> None:
        """Wait, blocking, until it has ended. Raises NotReady at the deadline."""
        ends = time.monotonic() + deadline_s
        while self.is_running():
            if time.monotonic() >= ends:
                raise NotReady(f"{self.name} does not end", deadline_s=deadline_s)
            time.sleep(POLL_S / 4)
        self._pid_file.unlink(missing_ok=True)

    def log_tail(self, limit: int = 2000) -> str:
        return self.log.read_text(errors="replace")[-limit:] if self.log.exists() else ""

    async def _end(self, number: signal.Signals, *, deadline_s: float) -> None:
        process = self.process
        if process is not None:
            _kill_group(process, number)
            await until(lambda: not self.is_running(), deadline_s=deadline_s, what=self.name)
        self._pid_file.unlink(missing_ok=True)


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]],
    *,
    deadline_s: float,
    what: str,
    every_s: float = POLL_S,
) -> None:
    """Ask again and again until it is true. Raises NotReady, naming `what`, at the deadline."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + deadline_s
    while True:
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return
        if loop.time() >= ends:
            raise NotReady(f"{what}: not so after {deadline_s:g} s")
        await asyncio.sleep(every_s)


def program(name: str) -> str:
    """The path of a program that must be here. Raises CannotRunHere."""
    path = find_program(name)
    if path is None:
        raise CannotRunHere(f"the program {name} is not installed")
    return path


def reap() -> None:
    """Let go of programs that have ended, so that none is a zombie."""
    _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]


def _kill_group(process: ProcessId, number: signal.Signals) -> None:
    try:
        if os.getpgid(process.pid) == process.pid and process.is_alive():
            os.killpg(process.pid, number)
        else:
            process.signal(number)
    except ProcessLookupError:
        return  # ended between the look and the signal: what was wanted


def _wrappers(user: str | None, network: str | None, *, keep: bool) -> list[str]:
    """Commands that exec the next one: the process keeps its id, and pdeathsig must come last."""
    enter = [program("nsenter"), f"--net=/run/netns/{network}", "--"] if network else []
    identity = [f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
    death = [] if keep else ["--pdeathsig", "KILL"]
    if not identity and not death:
        return enter
    return [*enter, program("setpriv"), *identity, *death, "--"]


_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
