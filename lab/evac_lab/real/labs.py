"""The labs of this machine: one that `evac-lab up` leaves running, and one for each `evac-lab run`.

All are folders under one base folder, so that `evac-lab down` also finds what a killed run left.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sysconfig
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from evac_lab.narrate import Line
from evac_lab.real import guest
from evac_lab.real.errors import CannotRunHere, LabError
from evac_lab.real.host import Host
from evac_lab.real.lab import RealLab
from evac_lab.real.libvirt_cluster import LibvirtCluster, missing
from evac_lab.real.processes import ProcessId, program
from evac_lab.real.witness import Proof
from evac_lab.runner import Outcome, Runner
from evac_lab.scenario.reading import Scenario, from_text
from evac_lab.view import Picture

BASE: Final = Path("/var/lib/evac-lab")
STANDING: Final = "lab"
_RUN: Final = "run-"
_ACCESS: Final = "access.json"
HOSTS_MAX: Final = 20

Progress = Callable[[str], None]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How `evac` reaches the standing lab: `access.json` in its folder, only root's to read."""

    url: str
    token: str
    network: str  # the namespace in which the url is reachable

    @classmethod
    def read(cls, base: Path) -> Access:
        """Raises LabError when no lab is up."""
        try:
            return cls(**json.loads((base / STANDING / _ACCESS).read_text()))
        except FileNotFoundError:
            raise LabError(f"no lab is up in {base}: `evac-lab up` makes one") from None

    def argv(self, command: list[str]) -> list[str]:
        """The command that runs `command` where the url is reachable."""
        return [program("nsenter"), f"--net=/run/netns/{self.network}", "--", *command]

    def environment(self) -> dict[str, str]:
        # `evac` stands beside this program, wherever that was called from.
        path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))
        return {**os.environ, "PATH": path, "EVAC_URL": self.url, "EVAC_TOKEN": self.token}


def run_on_libvirt(
    scenario: Scenario,
    *,
    on_line: Callable[[Line], None],
    on_picture: Callable[[Picture], None] | None,
    progress: Progress,
    base: Path = BASE,
    logs: Path | None = None,
) -> tuple[Outcome, Proof]:
    """Run to the end of the time line and judge; everything is ended and removed afterwards.

    Raises LabFailed when the cluster does not come up, and CannotRunHere.
    """

    async def live() -> tuple[Outcome, Proof]:
        async with _folder(base, f"{_RUN}{ProcessId.of(os.getpid())}") as folder:
            running = LibvirtCluster.running(
                scenario, directory=folder, progress=progress, logs=logs
            )
            async with running as cluster:
                runner = Runner(
                    cluster=cluster,
                    scenario=cluster.scenario,
                    on_line=on_line,
                    on_picture=on_picture,
                    progress=progress,
                )
                outcome = await runner.run()
                proof = await cluster.proof()
        return outcome.with_double_runs(proof.ran_twice), proof

    return asyncio.run(_until_sigterm(live()))


def up(*, hosts: int, profile: str, progress: Progress, base: Path = BASE) -> Access:
    """Make the standing lab: hosts n1, n2 ... enrolled and up, and a pool `shared` on all of them.

    Raises CannotRunHere; LabError when it is up already.
    """
    if lacks := missing():
        raise CannotRunHere(" ".join(lacks))
    scenario = _standing(hosts, profile)
    lab = RealLab(base / STANDING)
    if lab.exists():
        raise LabError(f"a lab is up in {base}: `evac-lab down` ends it")

    async def make() -> Access:
        cluster = LibvirtCluster(lab, scenario, outlives_starter=True)
        try:
            await cluster.start(progress)
            runner = Runner(
                cluster=cluster,
                scenario=cluster.scenario,
                on_line=lambda _line: None,
                on_picture=None,
                progress=progress,
            )
            await runner.bring_up()
            access = Access(
                url=f"http://{lab.control_address}:{cluster.plane.api_port}",
                token=cluster.plane.token,
                network=lab.control,
            )
            path = lab.directory / _ACCESS
            path.touch(mode=0o600)
            path.write_text(json.dumps(asdict(access), indent=1))
        except BaseException:
            await cluster.disconnect()
            await lab.down()
            _tidy(base)
            raise
        await cluster.disconnect()
        return access

    return asyncio.run(_until_sigterm(make()))


def down(*, progress: Progress, base: Path = BASE) -> int:
    """End and remove the standing lab and what killed runs left; how many labs there were."""
    found = [
        folder
        for folder in (sorted(base.iterdir()) if base.is_dir() else ())
        if folder.name == STANDING or (folder.name.startswith(_RUN) and not _is_lived_in(folder))
    ]

    async def end() -> int:
        ended = 0
        for folder in found:
            lab = RealLab(folder)
            if lab.exists():
                progress(f"ending the lab in {folder}")
                await lab.down(progress)
                ended += 1
            elif not any(folder.iterdir()):
                folder.rmdir()
        return ended

    ended = asyncio.run(end())
    _tidy(base)
    return ended


def standing(base: Path = BASE) -> RealLab:
    """The lab that is up. Raises LabError when none is."""
    lab = RealLab(base / STANDING)
    if not lab.exists():
        raise LabError(f"no lab is up in {base}: `evac-lab up` makes one")
    return lab


def host(name: str, base: Path = BASE) -> Host:
    """A host of the standing lab. Raises LabError, naming those that are there."""
    lab = standing(base)
    if name not in lab.facts.hosts:
        raise LabError(f"no host {name}: the lab has {', '.join(lab.facts.hosts)}")
    return lab.host(name)


def make_volumes(volumes: Sequence[str], base: Path = BASE) -> list[Path]:
    """Guest disks in the standing lab's shared folder. Raises LabError for one that is there."""
    lab = standing(base)
    made = []
    for volume in volumes:
        path = lab.shared_folder / volume
        if path.parent != lab.shared_folder:
            raise LabError("a volume is a file name", volume=volume)
        try:
            guest.make_disk(path)
        except FileExistsError:
            raise LabError("this volume is there already", volume=volume) from None
        made.append(path)
    return made


def _standing(hosts: int, profile: str) -> Scenario:
    if not 1 <= hosts <= HOSTS_MAX:
        raise LabError(f"a lab has 1 to {HOSTS_MAX} hosts", hosts=hosts)
    names = [f"n{number}" for number in range(1, hosts + 1)]
    nodes = {
        name: {"vcpus": 16, "memory_mib": 2048, "power": "redfish" if number % 2 else "ipmi"}
        for number, name in enumerate(names)
    }
    document = {
        "name": "standing-lab",
        "profile": profile,
        "nodes": nodes,
        "pools": {"shared": {"kind": "dir", "nodes": names}},
        "timeline": ["at 0 end"],
    }
    return from_text(json.dumps(document), "standing lab")


@asynccontextmanager
async def _folder(base: Path, name: str) -> AsyncIterator[Path]:
    try:
        yield base / name
    finally:
        _tidy(base)


def _tidy(base: Path) -> None:
    """The base folder goes with its last lab."""
    if base.is_dir() and not any(base.iterdir()):
        base.rmdir()


def _is_lived_in(folder: Path) -> bool:
    try:
        return ProcessId.parse(folder.name.removeprefix(_RUN)).is_alive()
    except ValueError:
        return True  # not a name of ours


async def _until_sigterm(work: Coroutine[Any, Any, Result]) -> Result:
    """SIGTERM ends a lab as Ctrl-C does: everything is taken down first. Raises LabError then."""
    task = asyncio.create_task(work, name="the lab's work")
    told = asyncio.Event()

    def end() -> None:
        told.set()
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    try:
        return await task
    except asyncio.CancelledError:
        if told.is_set():
            raise LabError("ended by SIGTERM; everything was taken down") from None
        task.cancel()
        await asyncio.wait({task})
        raise
