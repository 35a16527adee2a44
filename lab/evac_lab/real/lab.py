"""A whole real lab: hosts, their BMCs, broker and database, up and down.

    lab = RealLab(Path("/var/lib/evac-lab"))
    lab.missing()                                  # () or sentences: what this machine lacks
    await lab.up(("n1", "n2", "n3"))               # about 6 s
    lab.host("n1"), lab.bmc("n1"), lab.broker, lab.database, lab.shared_folder
    await lab.down()                               # no process, namespace, mount or file is left

Everything is found through the folder: another process may open the same lab, and `down` works from
it also after the first was killed -9, at whatever point of `up`.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from evac_lab.real import certificates, network, packages
from evac_lab.real.errors import CannotRunHere, LabError
from evac_lab.real.host import Host, HostFacts
from evac_lab.real.network import CONTROL, CONTROL_NUMBER, Network
from evac_lab.real.postgresql import PostgreSQL
from evac_lab.real.processes import Daemon, until
from evac_lab.real.rabbitmq import RabbitMQ, RabbitPorts

Progress = Callable[[str], None]

BMC_PORT = 6230  # host N's is at 10.77.0.254:6230+N
_BROKER_PORTS = RabbitPorts(amqp=5672, management=15672, distribution=25672, epmd=4369)
_DATABASE_PORT = 5432
_MARK = "lab.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabFacts:
    """What a lab is: `lab.json` in its folder, written before anything else is made."""

    lab_id: str
    hosts: tuple[str, ...]
    redfish: tuple[str, ...]  # hosts whose BMC speaks Redfish; the others speak IPMI
    broker_password: str
    database_password: str
    bmc_password: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BmcAccess:
    """How to reach a host's BMC from the control network, and how to spoil it."""

    address: str
    port: int
    user: str
    password: str
    password_file: Path
    certificate: Path | None  # Redfish: certificate and key, PEM
    faults: Path  # write a word of `bmc_switch` into it; remove it to heal
    process: Daemon  # kill9 it: the BMC is unreachable; `RealLab.start_bmc` brings it back

    @property
    def tls_sha256(self) -> str | None:
        """Of the certificate, once the BMC was started."""
        return certificates.sha256(self.certificate) if self.certificate else None


class RealLab:
    """One lab in one folder."""

    def __init__(self, directory: Path, *, outlives_starter: bool = True) -> None:
        """`outlives_starter=False`, for tests: servers and hosts die with this process.

        (Not a host that its BMC switched on again; `down` ends that, too.)
        """
        self.directory = directory.resolve()
        self._keep = outlives_starter
        self._servers: tuple[RabbitMQ, PostgreSQL] | None = None

    @staticmethod
    def missing() -> tuple[str, ...]:
        """What this machine lacks, a sentence each with its remedy; empty when all is here."""
        lacks = []
        if os.geteuid() != 0:
            lacks.append("The real lab makes namespaces and mounts: run it as root.")
        lacking = packages.missing_packages((packages.SERVERS, packages.HOSTS))
        if lacking:
            lacks.append(
                "Programs are missing: apt-get install --no-install-recommends "
                + " ".join(lacking)
                + "."
            )
        if not Path("/dev/net/tun").exists():
            lacks.append(
                "/dev/net/tun is missing, so instances can have no network card: modprobe tun."
            )
        if not Path("/proc/self/ns/pid").exists():
            lacks.append("This kernel has no process namespaces: use another machine.")
        return tuple(lacks)

    @property
    def facts(self) -> LabFacts:
        """Raises LabError when there is no lab in the folder."""
        try:
            known = json.loads((self.directory / _MARK).read_text())
        except FileNotFoundError:
            raise LabError("there is no lab in this folder", folder=str(self.directory)) from None
        # A lab that an older version made has no BMC that speaks Redfish.
        lists = {key: tuple(known.get(key, ())) for key in ("hosts", "redfish")}
        return LabFacts(**{**known, **lists})

    def exists(self) -> bool:
        return (self.directory / _MARK).exists()

    @property
    def network(self) -> Network:
        return Network(lab_id=self.facts.lab_id)

    @property
    def control(self) -> str:
        """The network namespace of the reference site."""
        return self.network.namespace(CONTROL)

    @property
    def control_address(self) -> str:
        return network.address(CONTROL_NUMBER)

    @property
    def shared_folder(self) -> Path:
        """/srv/evac-lab of every host, as seen from outside."""
        return self.directory / "shared"

    @property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(self.host(name) for name in self.facts.hosts)

    def host(self, name: str) -> Host:
        return Host(self.directory / name, outlives_starter=self._keep)

    def bmc(self, name: str) -> BmcAccess:
        facts = self.facts
        return BmcAccess(
            address=self.control_address,
            port=BMC_PORT + facts.hosts.index(name) + 1,
            user="admin",
            password=facts.bmc_password,
            password_file=self.directory / "bmc.password",
            certificate=self.directory / f"bmc-{name}.pem" if name in facts.redfish else None,
            faults=self.directory / f"bmc-{name}.faults",
            process=Daemon(
                name=f"bmc-{name}", directory=self.directory, outlives_starter=self._keep
            ),
        )

    @property
    def broker(self) -> RabbitMQ:
        return self._the_servers()[0]

    @property
    def database(self) -> PostgreSQL:
        return self._the_servers()[1]

    def control_daemon(self, name: str) -> Daemon:
        """A long-lived program of the reference site: start it with `network=lab.control`."""
        return Daemon(name=name, directory=self.directory, outlives_starter=self._keep)

    async def up(
        self,
        names: Sequence[str],
        progress: Progress = lambda _: None,
        *,
        redfish: Collection[str] = (),
    ) -> Self:
        """Make the lab and wait until everything answers; on failure it is taken down again.

        `redfish`: hosts whose BMC speaks that; the others speak IPMI.

        Raises CannotRunHere; LabError when there is a lab in the folder already.
        """
        lacks = self.missing()
        if lacks:
            raise CannotRunHere(" ".join(lacks))
        if self.exists():
            raise LabError("a lab is up in this folder", folder=str(self.directory))
        try:
            self._make_folder(tuple(names), tuple(redfish))
            progress("network: one switch, control at " + self.control_address)
            self.network.up()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._start_broker(progress), name="start the broker")
                group.create_task(self._start_database(progress), name="start the database")
                for number, name in enumerate(names, start=1):
                    group.create_task(
                        self._start_host(name, number, progress), name=f"start host {name}"
                    )
        except BaseException:
            await self.down()
            raise
        return self

    async def start_bmc(self, name: str) -> None:
        """Start a host's BMC; it answers when this returns. Raises NotReady."""
        access = self.bmc(name)
        host = self.host(name)
        certificate: tuple[str, ...] = ()
        if access.certificate is not None:
            if not access.certificate.exists():
                certificates.self_signed(access.certificate)
            certificate = ("--certificate", str(access.certificate))
        access.process.log.unlink(missing_ok=True)
        access.process.start(
            [
                *(sys.executable, "-m", "evac_lab.real.bmc"),
                *("--address", access.address, "--port", str(access.port)),
                *("--uuid", str(host.uuid), "--user", access.user),
                *("--password-file", str(access.password_file)),
                *("--faults", str(access.faults), *certificate, "host", str(host.directory)),
            ],
            env={"LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"},
            network=self.control,
        )
        await until(
            lambda: "listening" in access.process.log_tail(),
            deadline_s=20.0,
            what=f"the BMC of {name}",
        )

    async def down(self, progress: Progress = lambda _: None) -> None:
        """End and remove everything of the lab. Harmless when there is none, or only a part."""
        if not self.exists():
            return
        net = self.network
        progress("ending every process of the lab")
        await until(lambda: _emptied(net), deadline_s=10.0, what="the lab's processes are gone")
        progress("removing namespaces and files")
        self._servers = None
        # The mark goes last: whatever interrupts this, `down` can be repeated.
        for entry in self.directory.iterdir():
            if entry.name != _MARK:
                _remove(entry)
        (self.directory / _MARK).unlink()
        self.directory.rmdir()

    def _make_folder(self, names: tuple[str, ...], redfish: tuple[str, ...]) -> None:
        if not names or len(set(names)) != len(names):
            raise LabError("a lab needs hosts, each with a name of its own", names=names)
        for name in names:
            if not name.isalnum() or len(name) > 8 or name in (CONTROL, "switch", "shared"):
                raise LabError("a host's name is up to eight letters and digits", name=name)
        self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.directory.chmod(0o711)  # PostgreSQL's user passes through; secrets are in 0600 files
        if any(self.directory.iterdir()):
            raise LabError("the lab's folder is not empty", folder=str(self.directory))
        facts = LabFacts(
            lab_id=secrets.token_hex(3),
            hosts=names,
            redfish=redfish,
            broker_password=secrets.token_urlsafe(16),
            database_password=secrets.token_urlsafe(16),
            bmc_password=secrets.token_hex(8),  # IPMI allows 20 bytes
        )
        mark = self.directory / _MARK
        mark.touch(mode=0o600)
        mark.write_text(json.dumps(asdict(facts), indent=1))
        password = self.directory / "bmc.password"
        password.touch(mode=0o600)
        password.write_text(facts.bmc_password)
        self.shared_folder.mkdir()

    async def _start_broker(self, progress: Progress) -> None:
        await self.broker.start()
        progress(f"broker: {self.control_address}:{_BROKER_PORTS.amqp}")

    async def _start_database(self, progress: Progress) -> None:
        await self.database.start()
        progress(f"database: {self.control_address}:{_DATABASE_PORT}")

    async def _start_host(self, name: str, number: int, progress: Progress) -> None:
        identity = str(uuid.uuid4())
        facts = HostFacts(
            lab_id=self.facts.lab_id,
            name=name,
            number=number,
            uuid=identity,
            serial=f"EVAC{number:04d}",
            shared=str(self.shared_folder),
            kvm=False,
        )
        host = Host.create(self.directory / name, facts, outlives_starter=self._keep)
        await asyncio.gather(host.power_on(), self.start_bmc(name))
        bmc = self.bmc(name)
        progress(f"host {name}: {host.address}, BMC {bmc.address}:{bmc.port}")

    def _the_servers(self) -> tuple[RabbitMQ, PostgreSQL]:
        if self._servers is None:
            facts = self.facts
            self._servers = (
                RabbitMQ(
                    directory=self.directory / "rabbitmq",
                    address=self.control_address,
                    network=self.control,
                    ports=_BROKER_PORTS,
                    password=facts.broker_password,
                    outlives_starter=self._keep,
                ),
                PostgreSQL(
                    directory=self.directory / "postgresql",
                    address=self.control_address,
                    network=self.control,
                    port=_DATABASE_PORT,
                    password=facts.database_password,
                    outlives_starter=self._keep,
                ),
            )
        return self._servers


def _emptied(net: Network) -> bool:
    """Kill what is in the lab's namespaces and, when nothing is, remove them; whether all is gone.

    To be asked until it is so: a BMC may be switching a host on just now.
    """
    if net.commands():
        return False
    living = net.processes()
    for process in living:
        process.signal(signal.SIGKILL)
    if living:
        return False
    net.remove()
    return not net.namespaces() and not net.commands()


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
