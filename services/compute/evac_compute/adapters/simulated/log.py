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
from dataclasses import dataclass
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


def read_log(path: Path) -> list[LoggedRun]:
    """The runs of one log file, in the order of their starts. A torn last line is left out."""
    runs: list[LoggedRun] = []
    open_runs: dict[tuple[int, str], dict[str, Any]] = {}

    def close(run: dict[str, Any], *, until: float, ended: bool, why: str = "") -> None:
        runs.append(LoggedRun(**run, seen_until=until, ended=ended, why=why))

    seen: dict[tuple[int, str], float] = {}
    for text in path.read_text().splitlines(keepends=True):
        if not text.endswith("\n"):
            break
        line = json.loads(text)
        pid = line["pid"]
        match line["log"]:
            case "started":
                key = (pid, line["instance_id"])
                open_runs[key] = {
                    "node": line["node"],
                    "instance_id": line["instance_id"],
                    "epoch": line["epoch"],
                    "run": line["run"],
                    "started_at": line["at"],
                }
                seen[key] = line["at"]
            case "alive":
                seen.update({(pid, instance_id): line["at"] for instance_id in line["running"]})
            case "ended":
                key = (pid, line["instance_id"])
                close(open_runs.pop(key), until=line["at"], ended=True, why=line["why"])
            case _:
                pass
    for key, run in open_runs.items():
        close(run, until=seen[key], ended=False)
    return sorted(runs, key=lambda run: (run.started_at, run.instance_id))
