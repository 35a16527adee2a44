"""The log of a simulated hypervisor process, as a file that judges read.

One JSON object a line, appended and synced before anybody is told, `at` in seconds of
CLOCK_BOOTTIME: the logs of all nodes on one machine compare. Lines:

    {"log": "booted",  "node": NAME, "pid": N, "at": S}
    {"log": "started", "node": NAME, "pid": N, "at": S, "instance_id": ID, "epoch": N, "run": N}
    {"log": "alive",   "node": NAME, "pid": N, "at": S, "running": [ID, ...]}
    {"log": "ended",   "node": NAME, "pid": N, "at": S, "instance_id": ID, "epoch": N, "run": N,
    "why": W}

Guests run in the process. One that is killed leaves no `ended`: its guests surely ran until the
last `alive` line (every 50 ms, while there are guests) and surely not after the death of the
process. A judge takes the last `alive` for the end, so every double run it finds is one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from evac_compute.adapters.simulated.core import GuestRun

ALIVE_EVERY_S: Final = 0.05


def boottime_s() -> float:
    """Seconds since the machine booted, the same for every process on it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LogFile:
    def __init__(self, path: Path, node: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._who = {"node": node, "pid": os.getpid()}
        self._append("booted", boottime_s(), sync=True)

    def entry(self, entry: GuestRun) -> None:
        """A guest began or ended to execute."""
        what = {"instance_id": entry.instance_id, "epoch": entry.epoch, "run": entry.run}
        if entry.ended_at is None:
            self._append("started", entry.started_at, sync=True, **what)
        else:
            self._append("ended", entry.ended_at, sync=True, **what, why=entry.why)

    def alive(self, running: Iterable[str]) -> None:
        """These guests execute now. Not synced: it must outlive this process, not the machine."""
        self._append("alive", boottime_s(), sync=False, running=sorted(running))

    def _append(self, log: str, at: float, *, sync: bool, **fields: Any) -> None:
        line = json.dumps({"log": log, **self._who, "at": at, **fields}) + "\n"
        os.write(self._file, line.encode())
        if sync:
            os.fsync(self._file)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRun:
    """An instance surely executed on `node` from `started_at` to `seen_until`."""

    node: str
    instance_id: str
    epoch: int
    run: int
    started_at: float
    seen_until: float
    ended: bool  # its end was logged; else it still runs, or its hypervisor was killed
    why: str = ""


class LogReader:
    """Reads one log file, again and again, each time only what is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._closed: list[LoggedRun] = []
        self._open: dict[tuple[int, str], LoggedRun] = {}

    def read(self) -> list[LoggedRun]:
        """The runs so far, in the order of their starts. A torn last line waits for its rest."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for text in file:
                if not text.endswith(b"\n"):
                    break
                self._offset += len(text)
                self._take(json.loads(text))
        runs = [*self._closed, *self._open.values()]
        return sorted(runs, key=lambda run: (run.started_at, run.instance_id))

    def _take(self, line: dict[str, Any]) -> None:
        pid, at = line["pid"], line["at"]
        match line["log"]:
            case "started":
                self._open[pid, line["instance_id"]] = LoggedRun(
                    node=line["node"],
                    instance_id=line["instance_id"],
                    epoch=line["epoch"],
                    run=line["run"],
                    started_at=at,
                    seen_until=at,
                    ended=False,
                )
            case "alive":
                for instance_id in line["running"]:
                    self._open[pid, instance_id] = replace(
                        self._open[pid, instance_id], seen_until=at
                    )
            case "ended":
                run = self._open.pop((pid, line["instance_id"]))
                self._closed.append(replace(run, seen_until=at, ended=True, why=line["why"]))
            case _:
                pass


def read_log(path: Path) -> list[LoggedRun]:
    """The runs of one log file, in the order of their starts. A torn last line is left out."""
    return LogReader(path).read()
