"""What a BMC switches: a lab host, or a group of processes that stands for one.

Blocking, as the BMC's own loop is. A backend is true to life: `off` returns when nothing runs any
more, or raises; `is_on` looks at the world and remembers nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from evac_lab.real.errors import NotReady
from evac_lab.real.host import Host

DEAD_WITHIN_S = 10.0


class Power(Protocol):
    """The switch of one machine."""

    def is_on(self) -> bool: ...

    def off(self) -> None:
        """Cut the power, as if the cord were pulled. Harmless when off. Raises NotReady if it
        could not make sure that everything is dead.
        """

    def on(self) -> None:
        """Switch on; does not wait for the boot. Harmless when on."""


class HostPower:
    """The switch of a lab host; what it starts outlives the BMC."""

    def __init__(self, directory: Path) -> None:
        self._host = Host(directory, outlives_starter=True)

    def is_on(self) -> bool:
        return self._host.is_on()

    def off(self) -> None:
        self._host.cut()

    def on(self) -> None:
        self._host.boot()


class GroupPower:
    """The switch of a process group: a simulated hypervisor with everything it started.

    The pid file names the group's leader; whoever starts the group by hand writes it. It needs no
    root. A process that left the group for a session of its own is out of reach.
    """

    def __init__(self, *, pid_file: Path, command: Sequence[str]) -> None:
        """`command` starts the machine: it becomes the leader of a new group."""
        self._pid_file = pid_file
        self._command = tuple(command)
        self._children: list[subprocess.Popen[bytes]] = []

    def is_on(self) -> bool:
        group = self._group()
        return group is not None and bool(_living_members(group))

    def off(self) -> None:
        group = self._group()
        if group is None:
            return
        ends = time.monotonic() + DEAD_WITHIN_S
        # Again and again: a member may have forked between the kernel's look and its blow.
        while _living_members(group):
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                break
            if time.monotonic() > ends:
                raise NotReady("the process group does not die", group=group)
            time.sleep(0.01)
        # A dead group's number may be given to a stranger, whom nobody may kill.
        self._pid_file.unlink(missing_ok=True)
        self._reap()

    def on(self) -> None:
        if self.is_on():
            return
        child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)
        self._children.append(child)
        # Renamed into place, so that nobody reads half a number.
        fresh = self._pid_file.with_suffix(".new")
        fresh.write_text(f"{child.pid}\n")
        fresh.replace(self._pid_file)

    def _group(self) -> int | None:
        self._reap()
        try:
            group = int(self._pid_file.read_text().split()[0])
        except (FileNotFoundError, ValueError, IndexError):
            return None
        # 0 and 1 would be our own group and everybody.
        return group if group > 1 and group != os.getpgrp() else None

    def _reap(self) -> None:
        self._children = [child for child in self._children if child.poll() is None]


def _living_members(group: int) -> tuple[int, ...]:
    """Processes of a group that still run; the dead that nobody has waited for do not count."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _parent, its_group = stat[stat.rindex(")") + 2 :].split()[:3]
        if int(its_group) == group and state not in "ZX":
            found.append(int(entry.name))
    return tuple(found)
