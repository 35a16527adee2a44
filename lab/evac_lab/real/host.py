"""One libvirt host of the lab: its own namespaces, libvirtd, boot id, identity and power.

All of it is in one folder, and what runs is found through it, so that a BMC's process or a later
`down` holds the same host as the process that made it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from evac_lab.real import host_init, network
from evac_lab.real.errors import LabError, NotReady
from evac_lab.real.processes import Daemon, ProcessId, program, until

READY_S = 20.0  # 0.2 s on an idle machine
INSTANCE_BRIDGE = "br0"  # in every host, for instances' network cards
_SOCKET_PATH_MAX = 107

_LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""
# Lock files, security labels, cgroups and file ownership would all reach into the one kernel that
# the hosts share; image locking by QEMU itself stays.
_QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
migration_address = "0.0.0.0"
migration_host = "{address}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a host is, for ever: `host.json` in its folder."""

    lab_id: str
    name: str
    number: int  # its address is 10.77.0.NUMBER
    uuid: str
    serial: str
    shared: str  # the folder that is /srv/evac-lab in every host
    kvm: bool  # False hides /dev/kvm: where virtualization is nested it may exist and not work


class Host:
    """A host that can be switched on and off like a real one.

    `cut` and `boot` are the power itself (blocking for some 20 ms, for a BMC's process);
    `power_off` and `power_on` also wait until it is dead, or libvirtd answers.
    """

    def __init__(self, directory: Path, *, outlives_starter: bool = True) -> None:
        """The host of an existing folder; `create` makes one."""
        self.directory = directory
        self.facts = HostFacts(**json.loads((directory / "host.json").read_text()))
        self.network = network.Network(lab_id=self.facts.lab_id)
        self._keep = outlives_starter
        self._wrapper = Daemon(name="power", directory=directory, outlives_starter=outlives_starter)

    @classmethod
    def create(cls, directory: Path, facts: HostFacts, *, outlives_starter: bool = True) -> Host:
        """Make the folder of a new host, switched off."""
        directory.mkdir(parents=True)
        if len(str(directory / "run/libvirt/libvirt-sock-ro")) > _SOCKET_PATH_MAX:
            raise LabError("the lab's path is too long for a socket", path=str(directory))
        for folder in (*host_init.OWN_FOLDERS, "dmi", "state"):
            (directory / folder).mkdir()
        (directory / "host.json").write_text(json.dumps(asdict(facts), indent=1))
        libvirt = directory / "etc"
        (libvirt / "libvirtd.conf").write_text(_LIBVIRTD_CONF.format(uuid=facts.uuid))
        qemu = _QEMU_CONF.format(address=network.address(facts.number))
        (libvirt / "qemu.conf").write_text(qemu)
        names = f"127.0.0.1 localhost\n{network.address(facts.number)} {facts.name}\n"
        (directory / "hosts").write_text(names)
        (directory / "no_kvm").touch()
        identity = {
            "product_uuid": facts.uuid,
            "product_serial": facts.serial,
            "product_name": "lab host",
            "sys_vendor": "evac",
        }
        for name, value in identity.items():
            (directory / "dmi" / name).write_text(f"{value}\n")
        return cls(directory, outlives_starter=outlives_starter)

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def uuid(self) -> uuid.UUID:
        """The DMI UUID: libvirt's host_uuid, `product_uuid` and the BMC's GUID are all this."""
        return uuid.UUID(self.facts.uuid)

    @property
    def address(self) -> str:
        return network.address(self.facts.number)

    @property
    def namespace(self) -> str:
        """Its network namespace; there only while the host is on."""
        return self.network.namespace(self.facts.name)

    @property
    def identity_folder(self) -> Path:
        """Stands for the kernel's DMI folder (/sys/class/dmi/id)."""
        return self.directory / "dmi"

    @property
    def state_folder(self) -> Path:
        """A disk of this host for its programs: survives power cuts. The same path inside."""
        return self.directory / "state"

    @property
    def shared_folder(self) -> Path:
        """Where this machine sees what every host sees as /srv/evac-lab."""
        return Path(self.facts.shared)

    @property
    def boot_id(self) -> str:
        """Of the running or last boot."""
        return (self.directory / "boot_id").read_text().strip()

    @property
    def libvirt_uri(self) -> str:
        """Its libvirt, from this machine's own namespaces (a path socket ignores networks)."""
        socket_path = quote(str(self._libvirt_socket), safe="/")
        return f"qemu+unix:///system?socket={socket_path}"

    @property
    def process_one(self) -> ProcessId | None:
        """The host's first process as this machine numbers it; None when off."""
        wrapper = self._wrapper.process
        if wrapper is None:
            return None
        try:
            children = Path(f"/proc/{wrapper.pid}/task/{wrapper.pid}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return ProcessId.of(int(children[0])) if children else None

    def is_on(self) -> bool:
        return self._wrapper.is_running()

    def boot(self) -> None:
        """Press the power-on button. Nothing happens if it is on. Does not wait."""
        with self._power_lock():
            if self.is_on():
                return
            self.network.detach(self.name, self.facts.number)
            shutil.rmtree(self.directory / "run")  # a tmpfs in a real host: empty at every boot
            (self.directory / "run").mkdir()
            (self.directory / "boot_id").write_text(f"{uuid.uuid4()}\n")
            self.network.attach(self.name, self.facts.number, plugged=self.is_plugged())
            self.network.add_bridge(self.name, INSTANCE_BRIDGE)
            self._wrapper.start(
                [
                    program("unshare"),
                    *("--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"),
                    *("--", sys.executable, "-I", "-S", host_init.__file__, str(self.directory)),
                ],
                env={"LANG": "C.UTF-8", "HOME": "/root"},
                network=self.namespace,
            )

    def cut(self) -> None:
        """Cut the power: when it returns nothing of the host runs. No goodbye reaches anybody.

        The cable goes first: a killed process's sockets would say FIN, a dead machine's do not.
        """
        with self._power_lock():
            if self.network.exists(self.name):
                self.network.unplug(self.facts.number)
            first = self.process_one
            if first is not None:
                first.signal(signal.SIGKILL)
            self._wrapper.wait_gone(deadline_s=10.0)
            self.network.detach(self.name, self.facts.number)

    async def power_on(self, *, ready_s: float = READY_S) -> None:
        """Switch on and wait until libvirtd listens. Raises NotReady with the end of its log."""
        self.boot()
        await self.wait_ready(deadline_s=ready_s)

    async def power_off(self) -> None:
        """Cut the power."""
        self.cut()

    async def shut_down(self, *, deadline_s: float = host_init.ORDERLY_S + 5.0) -> None:
        """Press the power button: SIGTERM to every process inside, then off."""
        first = self.process_one
        if first is not None:
            first.signal(signal.SIGTERM)
            await until(
                lambda: not self.is_on(), deadline_s=deadline_s, what=f"{self.name} shut down"
            )
        self.cut()

    async def wait_ready(self, *, deadline_s: float = READY_S) -> None:
        """Until libvirtd accepts connections. Raises NotReady."""

        async def listens_or_off() -> bool:
            return not self.is_on() or await self._libvirt_listens()

        await until(listens_or_off, deadline_s=deadline_s, what=f"libvirtd of {self.name}")
        if not self.is_on():
            raise NotReady("the host went off while starting", log=self._wrapper.log_tail())

    def is_plugged(self) -> bool:
        return not (self.directory / "unplugged").exists()

    def unplug(self) -> None:
        """Pull the network cable; stays out over power cycles until `plug`."""
        (self.directory / "unplugged").touch()
        if self.network.exists(self.name):
            self.network.unplug(self.facts.number)

    def plug(self) -> None:
        (self.directory / "unplugged").unlink(missing_ok=True)
        if self.network.exists(self.name):
            self.network.plug(self.facts.number)

    def enter_argv(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` inside the host. Raises LabError when the host is off.

        Use absolute paths. What it starts dies with a power cut.
        """
        first = self.process_one
        if first is None:
            raise LabError("the host is off", host=self.name)
        return [
            program("nsenter"),
            *("--target", str(first.pid), "--mount", "--uts", "--net", "--ipc", "--pid"),
            *("--wd=/", "--", *argv),
        ]

    async def exec(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """Start a program inside, with its output on pipes; the caller waits for it."""
        return await asyncio.create_subprocess_exec(
            *self.enter_argv(argv),
            env={"PATH": os.defpath + ":/usr/sbin:/sbin", "LANG": "C.UTF-8", **(env or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    def daemon(self, name: str) -> Daemon:
        """A long-lived program of this host; start it with `enter_argv`. Its log is in the folder.

        Entering a process namespace takes a parent outside; `Daemon` signals the whole session, so
        kill9, pause and resume reach the program itself.
        """
        return Daemon(name=name, directory=self.directory, outlives_starter=self._keep)

    def install(self, name: str, argv: Sequence[str], environment: Mapping[str, str]) -> Path:
        """Make a program start at every boot from the next one on; its log file is returned."""
        unit = self.directory / "units" / f"{name}.json"
        unit.parent.mkdir(mode=0o700, exist_ok=True)
        unit.write_text(json.dumps({"argv": list(argv), "environment": dict(environment)}))
        return self.directory / f"{name}.log"

    def outside(self, inside: ProcessId) -> ProcessId | None:
        """A process of the host, which numbers it `inside`, as this machine numbers it."""
        first = self.process_one
        if first is None:
            return None
        try:
            namespace = Path(f"/proc/{first.pid}/ns/pid").readlink()
        except (FileNotFoundError, ProcessLookupError):
            return None
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if (entry / "ns" / "pid").readlink() != namespace:
                    continue
                status = (entry / "status").read_text()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # gone, or a stranger that even root may not look at in a container
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:"))
            if int(numbers.split()[-1]) == inside.pid:
                found = ProcessId.of(int(entry.name))
                # A number used again by a stranger is not the process that was meant.
                same = found is not None and found.started_ticks == inside.started_ticks
                return found if same else None
        return None

    @property
    def _libvirt_socket(self) -> Path:
        return self.directory / "run" / "libvirt" / "libvirt-sock"

    async def _libvirt_listens(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(self._libvirt_socket)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    @contextmanager
    def _power_lock(self) -> Iterator[None]:
        """One hand on the button at a time, whatever process it belongs to."""
        with (self.directory / "power.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
