"""Nodes made of processes: no root, no libvirt; the daemon, broker, BMC and power cut are real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evac_compute.adapters.simulated.log import LoggedRun, LogReader
from evac_lab.real import certificates, process_machine
from evac_lab.real.errors import LabError
from evac_lab.real.ports import free_ports
from evac_lab.real.power import GroupPower
from evac_lab.real.process_machine import MachineFacts
from evac_lab.real.processes import Daemon, ProcessId, until
from evac_lab.real.supervisor import supervised

BMC_USER = "admin"
READY_S = 30.0
_SOCKET_PATH_MAX = 107


class ProcessNode:
    """One node: its folder, its power, its cable, its BMC.

    The BMC and this object switch the same process group, which its pid file names.
    """

    def __init__(
        self, directory: Path, *, name: str, bmc_password: str, redfish: bool = False
    ) -> None:
        """Make the folder of a new node, switched off. `redfish`: its BMC speaks that, not IPMI."""
        for folder in ("dmi", "state", "guests"):
            (directory / folder).mkdir(parents=True)
        if len(str(process_machine.hypervisor_socket(directory))) > _SOCKET_PATH_MAX:
            raise LabError("the lab's path is too long for a socket", path=str(directory))
        self.directory = directory
        self.name = name
        self.uuid = uuid.uuid4()
        self.bmc_password = bmc_password
        self.cable_port, self.bmc_port = free_ports(2)
        (directory / "dmi" / "product_uuid").write_text(f"{self.uuid}\n")
        self._password_file = directory / "bmc.password"
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(bmc_password)
        self._certificate = directory / "bmc.pem" if redfish else None
        self.bmc_sha256 = certificates.self_signed(self._certificate) if self._certificate else None
        self._command = [sys.executable, "-m", "evac_lab.real.process_machine", str(directory)]
        self._pid_file = directory / "machine.pid"
        self._power = GroupPower(pid_file=self._pid_file, command=self._command)
        self.bmc = Daemon(name="bmc", directory=directory)
        self.bmc_faults = directory / "bmc.faults"  # a word of `bmc_switch`
        self._readers: list[LogReader] = []

    def enrol(
        self,
        identity: Mapping[str, Any],
        *,
        capacity: tuple[int, int],
        bridges: Sequence[str],
        start_delay_s: float,
        poweroff_delay_s: float,
        restart_s: float,
        settings: Mapping[str, str],
    ) -> None:
        """Put the identity onto the node's disk. `capacity`: vCPUs and MiB; `settings`: EVAC_*."""
        broker = urlsplit(identity["bus_url"])
        assert broker.port, "the api names the broker's address and port"
        cable = broker._replace(netloc=f"127.0.0.1:{self.cable_port}").geturl()
        node_file = self.directory / "node.toml"
        node_file.touch(mode=0o600)
        values = {**identity, "bus_url": cable}
        node_file.write_text("".join(f"{key} = {json.dumps(values[key])}\n" for key in values))
        environment = {
            "EVAC_COMPUTE_NODE_FILE": str(node_file),
            "EVAC_COMPUTE_STATE_DIR": str(self.directory / "state"),
            "EVAC_COMPUTE_BOOT_ID_FILE": str(self.directory / "boot_id"),
            "EVAC_COMPUTE_DMI_DIR": str(self.directory / "dmi"),
            "EVAC_COMPUTE_HYPERVISOR": (
                f"simulated:{process_machine.hypervisor_socket(self.directory)}"
            ),
        }
        vcpus, memory_mib = capacity
        MachineFacts(
            name=self.name,
            vcpus=vcpus,
            memory_mib=memory_mib,
            bridges=tuple(bridges),
            start_delay_s=start_delay_s,
            poweroff_delay_s=poweroff_delay_s,
            broker=(broker.hostname or "", broker.port),
            cable_port=self.cable_port,
            restart_s=restart_s,
            environment={**environment, **settings},
            owner=str(ProcessId.of(os.getpid())),
        ).write(self.directory)

    # -- power, cable, daemon ------------------------------------------------------------------

    def is_on(self) -> bool:
        return self._power.is_on()

    def boot(self) -> None:
        """Press the power-on button; does not wait."""
        self._power.on()

    def cut(self) -> None:
        """Cut the power: when it returns nothing of the node runs."""
        self._power.off()

    def is_plugged(self) -> bool:
        return process_machine.is_plugged(self.directory)

    def unplug(self) -> None:
        """Pull the network cable; it stays out over power cycles until `plug`."""
        (self.directory / "unplugged").touch()

    def plug(self) -> None:
        (self.directory / "unplugged").unlink(missing_ok=True)

    def daemon(self) -> ProcessId | None:
        """The daemon itself; None while it or the node is off."""
        return supervised(self.directory / "compute.pid")

    def kill_daemon(self) -> None:
        """kill -9; its supervisor starts it again."""
        process = self.daemon()
        if process is not None:
            process.signal(signal.SIGKILL)

    async def start_bmc(self) -> None:
        """It answers when this returns. Raises NotReady."""
        certificate = ("--certificate", str(self._certificate)) if self._certificate else ()
        self.bmc.log.unlink(missing_ok=True)
        self.bmc.start(
            [
                *(sys.executable, "-m", "evac_lab.real.bmc", "--port", str(self.bmc_port)),
                *("--uuid", str(self.uuid), "--user", BMC_USER),
                *("--password-file", str(self._password_file)),
                *("--faults", str(self.bmc_faults), *certificate),
                *("group", str(self._pid_file), "--", *self._command),
            ],
            env={"LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"},
        )
        await until(
            lambda: "listening" in self.bmc.log_tail() or not self.bmc.is_running(),
            deadline_s=READY_S,
            what=f"the BMC of {self.name}",
        )
        if not self.bmc.is_running():
            raise LabError("the BMC ended at once", node=self.name, log=self.bmc.log_tail())

    async def discard(self) -> None:
        """The BMC first: it could switch the node on again."""
        await self.bmc.kill9()
        await asyncio.to_thread(self.cut)

    # -- what really ran -----------------------------------------------------------------------

    def runs(self) -> list[tuple[LoggedRun, bool]]:
        """What executed here, by the hypervisor's own logs, and whether it still does."""
        logs = process_machine.guest_logs(self.directory)
        known = len(self._readers)
        self._readers += [LogReader(path) for path in logs[known:]]
        # Looked at first: a run that is open in the last log of a node that is off has ended.
        powered = self.is_on()
        found = []
        for reader in self._readers:
            of_this_boot = powered and reader is self._readers[-1]
            found += [(run, of_this_boot and not run.ended) for run in reader.read()]
        return found
