"""A whole cluster on libvirt hosts: nothing is simulated but the hardware.

Every host has namespaces, a libvirtd, a BMC and a cable of its own; broker, database and the three
controllers are a machine of their own on the same switch; the daemons run inside their hosts.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx2

from evac_common.cli.output import Output
from evac_common.model.states import PowerKind
from evac_lab.judge import Execution
from evac_lab.real import actions, guest_disks, supervisor
from evac_lab.real.controllers import ControlPlane, Site, as_environment
from evac_lab.real.errors import CannotRunHere, LabError
from evac_lab.real.host import Host
from evac_lab.real.lab import RealLab
from evac_lab.real.processes import ProcessId, reap, until
from evac_lab.real.witness import Proof, Witness
from evac_lab.scenario.document import ScenarioNode
from evac_lab.scenario.reading import Scenario
from evac_lab.scenario.timeline import Action, BmcState

DAEMON = "compute"
_MODULES = {
    "libvirt": "libvirt-python",
    "pyghmi": "pyghmi",
    "sushy_tools": "sushy-tools",
    "bcrypt": "bcrypt",
}
_DIES_S = 5.0


def missing() -> tuple[str, ...]:
    """What this machine lacks, a sentence each with its remedy; empty when all is here."""
    lacking = [
        package for name, package in _MODULES.items() if importlib.util.find_spec(name) is None
    ]
    modules = [f"Python modules are missing: pip install {' '.join(lacking)}."] if lacking else []
    return (*RealLab.missing(), *modules)


class LibvirtCluster:
    """The cluster of one scenario; `runner.Cluster` for the runner.

    Its `scenario` is the given one with a disk for every instance: run that one.
    """

    def __init__(self, lab: RealLab, scenario: Scenario, *, outlives_starter: bool = False) -> None:
        self.lab = lab
        self.scenario = guest_disks.with_guests(scenario)
        self.witness = Witness()
        self._keep = outlives_starter
        self._plane: ControlPlane | None = None
        self._api: httpx2.AsyncClient | None = None
        self._looking: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        scenario: Scenario,
        *,
        directory: Path,
        progress: Callable[[str], None] = lambda _text: None,
        logs: Path | None = None,
    ) -> AsyncIterator[Self]:
        """Broker, database, controllers and BMCs run; hosts are off. All is ended afterwards.

        `directory`: of the lab, removed at the end; `logs` keeps what everybody said.
        Raises DocumentInvalid for what it cannot do of the scenario, and CannotRunHere.
        """
        actions.refuse_what_no_real_lab_does(scenario)
        cluster = cls(RealLab(directory, outlives_starter=False), scenario)
        try:
            await cluster.start(progress)
            yield cluster
        finally:
            await cluster.disconnect()
            if logs is not None:
                keep_logs(directory, logs)
            await cluster.lab.down()
            reap()

    async def start(self, progress: Callable[[str], None] = lambda _text: None) -> None:
        """Start all but the hosts; every service is ready when this returns.

        Raises CannotRunHere, NotReady, LabError.
        """
        if lacks := missing():
            raise CannotRunHere(" ".join(lacks))
        try:
            await self._start(progress)
        except ExceptionGroup as group:
            # Of what is started side by side, the first failure says why; it cancelled the others.
            raise group.exceptions[0] from group

    async def _start(self, progress: Callable[[str], None]) -> None:
        document = self.scenario.document
        kinds = {name: node.power_kind for name, node in document.nodes.items()}
        redfish = [name for name, kind in kinds.items() if kind is PowerKind.REDFISH]
        await self.lab.up(tuple(kinds), progress, redfish=redfish)
        for host in self.lab.hosts:
            host.cut()  # a node's first boot with its daemon is its power-on by the scenario
        self._plane = ControlPlane(
            Site(
                directory=self.lab.directory / "control",
                broker=self.lab.broker,
                database=self.lab.database,
                address=self.lab.control_address,
                network=self.lab.control,
                outlives_starter=self._keep,
            ),
            profile=document.profile,
            settings=self.scenario.settings_of,
        )
        progress("controllers: api, scheduler, monitor")
        await self.plane.prepare()
        await self.plane.start()
        self._api = await self.plane.api()
        self._follow_disks()
        self._looking = asyncio.create_task(self.witness.run(), name="look at the guests' disks")

    def _follow_disks(self) -> None:
        serials = {host.name: _serials(host) for host in self.lab.hosts}
        for folder in serials.values():
            folder.mkdir()
        made = guest_disks.make_disks(self.scenario, self.lab.shared_folder)
        for instance, disk in made.items():
            self.witness.follow(instance, disk, guest_disks.consoles(serials, instance))

    async def disconnect(self) -> None:
        """Stop watching; the cluster goes on."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self._plane is not None:
            await self._plane.disconnect()

    @property
    def plane(self) -> ControlPlane:
        assert self._plane is not None, "start() comes first"
        return self._plane

    async def proof(self) -> Proof:
        """What the guests' disks prove, at the end of a run."""
        return await asyncio.to_thread(self.witness.proof)

    # -- runner.Cluster ------------------------------------------------------------------------

    @property
    def api(self) -> httpx2.AsyncClient:
        assert self._api is not None, "start() comes first"
        return self._api

    async def enrolled(self, name: str, identity: Mapping[str, Any]) -> None:
        """Put identity and daemon onto the host's disk; its next boot starts the daemon."""
        host = self.lab.host(name)
        node_file = host.state_folder / "node.toml"
        node_file.touch(mode=0o600)
        node_file.write_text("".join(f"{key} = {json.dumps(identity[key])}\n" for key in identity))
        values = {
            "profile": self.plane.profile,
            "name": name,
            "node_file": str(node_file),
            "state_dir": str(host.state_folder / "evac-compute"),
            "dmi_dir": str(host.identity_folder),
            "hypervisor": "qemu:///system",
            "virt_type": "qemu",
            # The machine's own page cache outlives a lab host, so nothing is lost in it; and any
            # file system will do.
            "disk_cache": "writeback",
            "serial_dir": str(_serials(host)),
            **self.scenario.settings_of("compute"),
        }
        command = supervisor.argv(
            [sys.executable, "-m", "evac_compute.cli", "run"],
            pid_file=_pid_file(host),
            pause_s=self.plane.restart_s,
        )
        environment = {"LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", "HOME": "/root"}
        host.install(DAEMON, command, environment | as_environment("EVAC_COMPUTE_", values))

    def power_of(self, name: str, node: ScenarioNode) -> Mapping[str, Any] | None:
        if node.power_kind is None:
            return None
        bmc = self.lab.bmc(name)
        return {
            "kind": node.power_kind.value,
            "address": bmc.address,
            "port": bmc.port,
            "username": bmc.user,
            "password": bmc.password,
            "tls_sha256": bmc.tls_sha256,
        }

    def disks_of(self, instance: str) -> Sequence[Mapping[str, Any]]:
        return ()  # `scenario` gives every instance its disks

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def act(self, action: Action) -> None:
        await actions.act(self, action)

    async def evac(self, argv: Sequence[str], output: Output) -> int:
        return await actions.evac(self.api, self.plane.token, argv, output)

    async def power(self, name: str, *, on: bool) -> None:
        # In this very thread: the kernel ties a host to the thread that switched it on.
        host = self.lab.host(name)
        host.boot() if on else host.cut()

    async def network(self, name: str, *, on: bool) -> None:
        host = self.lab.host(name)
        host.plug() if on else host.unplug()

    async def bmc(self, name: str, state: BmcState) -> None:
        bmc = self.lab.bmc(name)
        start = functools.partial(self.lab.start_bmc, name)
        await actions.make_bmc(state, bmc.process, bmc.faults, start)

    async def kill(self, service: str, node: str | None) -> None:
        if node is None:
            await self.plane.kill9(service)
            return
        process = self.daemon(node)
        if process is not None:
            process.signal(signal.SIGKILL)
            await until(
                lambda: not process.is_alive(), deadline_s=_DIES_S, what=f"{service}@{node} dies"
            )

    def daemon(self, node: str) -> ProcessId | None:
        """The daemon itself; None while it or its host is off."""
        host = self.lab.host(node)
        try:
            inside = ProcessId.parse(_pid_file(host).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return host.outside(inside)

    def hardware(self, name: str) -> tuple[str, str]:
        host = self.lab.host(name)
        return ("on" if host.is_on() else "off", "ok" if host.is_plugged() else "cut")

    async def executions(self) -> Sequence[Execution]:
        if self._looking is not None and self._looking.done():
            self._looking.result()  # nobody looks any more: its error is the run's
            raise LabError("the guests' disks are not looked at any more")
        now_s = asyncio.get_running_loop().time()
        self.witness.look(now_s)
        return self.witness.executions(now_s)


def keep_logs(directory: Path, logs: Path) -> None:
    """Copy every log file of a lab, if there is one, to a folder, under its path in the lab."""
    for log in sorted(directory.rglob("*.log")) if directory.exists() else ():
        kept = logs / log.relative_to(directory)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, kept)


def _serials(host: Host) -> Path:
    """On the host's disk: which guests spoke there is known after a power cut, too."""
    return host.state_folder / "serial"


def _pid_file(host: Host) -> Path:
    return host.state_folder / f"{DAEMON}.program"
