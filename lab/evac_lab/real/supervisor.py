"""Keep one program running, as an init system would: `python -m evac_lab.real.supervisor ...`.

    supervisor --pid-file FILE --pause-s 5 -- COMMAND

When the program ends, by itself or by kill -9, it is started again after the pause; each end is a
line on standard output, in the same log as the program's own. SIGTERM is passed on and ends both.
The pid file names the program itself, so that it, and not the supervisor, can be killed.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from evac_lab.real.processes import ProcessId, program

GRACE_S = 10.0


class Stop(BaseException):
    """Somebody asked for the end of the program and of its supervisor."""


def argv(command: Sequence[str], *, pid_file: Path, pause_s: float) -> list[str]:
    """The command line that keeps `command` running."""
    module = (sys.executable, "-m", "evac_lab.real.supervisor")
    return [*module, "--pid-file", str(pid_file), "--pause-s", f"{pause_s:g}", "--", *command]


def supervised(pid_file: Path) -> ProcessId | None:
    """The program that a supervisor runs now; None between two lives."""
    try:
        found = ProcessId.parse(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if found.is_alive() else None


def tied(command: Sequence[str]) -> list[str]:
    """The same command; the kernel kills it when the process that starts it dies."""
    return [program("setpriv"), "--pdeathsig", "KILL", "--", *command]


def keep_running(command: Sequence[str], *, pid_file: Path, pause_s: float) -> NoReturn:
    child: subprocess.Popen[bytes] | None = None
    try:
        while True:
            child = subprocess.Popen(tied(command), stdin=subprocess.DEVNULL)
            write_pid_file(pid_file, child.pid)
            status = child.wait()
            print(f"supervisor: ended ({status}), starts again in {pause_s:g} s", flush=True)
            time.sleep(pause_s)
    except Stop:
        if child is not None:
            _end(child)
        sys.exit(0)


def write_pid_file(path: Path, pid: int) -> None:
    """Name the process; renamed into place, so that nobody reads half a line."""
    identity = ProcessId.of(pid)
    fresh = path.with_suffix(".new")
    fresh.write_text("" if identity is None else f"{identity}\n")
    fresh.replace(path)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _asked_to_stop(_number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stop


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m evac_lab.real.supervisor", description=__doc__)
    parser.add_argument("--pid-file", type=Path, required=True)
    parser.add_argument("--pause-s", type=float, required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _asked_to_stop)
    keep_running(options.command, pid_file=options.pid_file, pause_s=options.pause_s)


if __name__ == "__main__":
    main()
