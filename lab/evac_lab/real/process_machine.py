"""The first process of a node made of processes: `python -m evac_lab.real.process_machine FOLDER`.

It leads a process group of its own, and everything of the node is in that group: a simulated
hypervisor (its guests run in it), the daemon under supervision, and here the cable to the broker.
Killing the group is the power cut. Each start is a boot with a fresh boot id; what is in the folder
is the node's disk and survives.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from evac_lab.real import supervisor
from evac_lab.real.processes import ProcessId
from evac_lab.real.proxy import Proxy, connector

_OWNER_LOOK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """What the machine is: `machine.json` in its folder."""

    name: str
    vcpus: int
    memory_mib: int
    bridges: tuple[str, ...]
    start_delay_s: float  # of a guest
    poweroff_delay_s: float  # of a guest that is asked to power off
    broker: tuple[str, int]
    cable_port: int  # the daemon's broker is on this port of loopback
    restart_s: float  # the daemon's supervisor waits this long
    environment: dict[str, str]  # of the daemon
    owner: str  # the lab's process: the machine goes off when it is gone; "": it stays

    @classmethod
    def read(cls, directory: Path) -> MachineFacts:
        known = json.loads((directory / "machine.json").read_text())
        known |= {"bridges": tuple(known["bridges"]), "broker": tuple(known["broker"])}
        return cls(**known)

    def write(self, directory: Path) -> None:
        (directory / "machine.json").write_text(json.dumps(asdict(self), indent=1))


def guest_logs(directory: Path) -> list[Path]:
    """The hypervisor's logs, one per boot, in their order."""
    return sorted((directory / "guests").glob("*.jsonl"), key=lambda path: int(path.stem))


def is_plugged(directory: Path) -> bool:
    """Whether the node's cable to the network is in."""
    return not (directory / "unplugged").exists()


def hypervisor_socket(directory: Path) -> Path:
    return directory / "hypervisor.sock"


async def run(directory: Path) -> NoReturn:
    """Run the machine until its group is killed. A hypervisor that ends takes the machine along."""
    facts = MachineFacts.read(directory)
    (directory / "boot_id").write_text(f"{uuid.uuid4()}\n")
    log = directory / "guests" / f"{len(guest_logs(directory)) + 1}.jsonl"
    cable = Proxy(
        connector(*facts.broker), port=facts.cable_port, plugged=lambda: is_plugged(directory)
    )
    try:
        async with cable, asyncio.TaskGroup() as group:
            group.create_task(_hypervisor(directory, facts, log), name="hypervisor")
            group.create_task(_daemon(directory, facts), name="daemon")
            if facts.owner:
                group.create_task(_watch(ProcessId.parse(facts.owner)), name="watch the lab")
    finally:
        os.killpg(0, signal.SIGKILL)
    raise AssertionError("nobody survives its own SIGKILL")


async def _hypervisor(directory: Path, facts: MachineFacts, log: Path) -> None:
    command = [
        *(sys.executable, "-m", "evac_compute.adapters.simulated.process"),
        *("--socket", str(hypervisor_socket(directory)), "--log", str(log)),
        *("--node", facts.name, "--vcpus", str(facts.vcpus)),
        *("--memory-mib", str(facts.memory_mib)),
        *("--start-delay-s", str(facts.start_delay_s)),
        *("--poweroff-delay-s", str(facts.poweroff_delay_s)),
        *(word for bridge in facts.bridges for word in ("--bridge", bridge)),
    ]
    process = await _start(command, directory / "hypervisor.log", {})
    raise RuntimeError(f"the hypervisor ended ({await process.wait()})")


async def _daemon(directory: Path, facts: MachineFacts) -> NoReturn:
    """As an init system would: it is started again, whatever ended it."""
    command = [sys.executable, "-m", "evac_compute.cli", "run"]
    while True:
        process = await _start(command, directory / "compute.log", facts.environment)
        supervisor.write_pid_file(directory / "compute.pid", process.pid)
        status = await process.wait()
        print(f"the daemon ended ({status}), starts again in {facts.restart_s:g} s", flush=True)
        await asyncio.sleep(facts.restart_s)


async def _start(
    command: list[str], log: Path, environment: dict[str, str]
) -> asyncio.subprocess.Process:
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *supervisor.tied(command),
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


async def _watch(owner: ProcessId) -> None:
    while owner.is_alive():
        await asyncio.sleep(_OWNER_LOOK_S)
    raise RuntimeError("the lab is gone")


def main() -> None:
    directory = Path(sys.argv[1])
    if os.getpgrp() != os.getpid():
        sys.exit("a machine leads its own process group")
    log = os.open(directory / "machine.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    asyncio.run(run(directory))


if __name__ == "__main__":
    main()
