"""One libvirt host of the lab, for the hypervisor's tests: no broker, no database, no BMC."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from evac_compute.adapters.libvirt_driver.domain_xml import DomainOptions
from evac_compute.adapters.libvirt_driver.driver import LibvirtHypervisor
from evac_compute.ports import HypervisorUnreachable
from evac_lab.real.host import Host, HostFacts
from evac_lab.real.lab import RealLab
from evac_lab.real.network import Network
from tests.contract.hypervisor.pausing import pause

#: Where hosts see the folder that is `shared_folder` outside.
SHARED = "/srv/evac-lab"


def need_the_lab() -> None:
    if lacks := RealLab.missing():
        pytest.skip(" ".join(lacks))


@contextlib.contextmanager
def lab_host() -> Iterator[Host]:
    """A host that is on; everything of it is gone afterwards."""
    need_the_lab()
    folder = Path(tempfile.mkdtemp(prefix="evc-"))
    lab_id = uuid.uuid4().hex[:4]
    network = Network(lab_id=lab_id)
    (folder / "shared").mkdir()
    network.up()
    facts = HostFacts(
        lab_id=lab_id,
        name="h1",
        number=1,
        uuid=str(uuid.uuid4()),
        serial="EVAC0001",
        shared=str(folder / "shared"),
        kvm=False,
    )
    host = Host.create(folder / "h1", facts, outlives_starter=False)
    try:
        asyncio.run(host.power_on())
        yield host
    finally:
        host.cut()
        network.remove()
        shutil.rmtree(folder, ignore_errors=True)


class RealBench:
    """libvirt and QEMU on a lab host, seen by daemons that come and go."""

    def __init__(self, host: Host, *, start_time_limit_s: float = 30.0) -> None:
        self.host = host
        self._start_s = start_time_limit_s
        self._tasks: list[asyncio.Task[None]] = []
        self.port = self.new_port()

    def new_port(self) -> LibvirtHypervisor:
        return LibvirtHypervisor(
            self.host.libvirt_uri,
            options=DomainOptions(virt_type="qemu"),
            call_time_limit_s=3,
            start_time_limit_s=self._start_s,
            threads=4,
            reconnect_max_s=0.5,
            keepalive_s=1,
        )

    async def open(self, port: LibvirtHypervisor) -> None:
        self._tasks.append(asyncio.create_task(port.run()))
        async with asyncio.timeout(30):
            while True:
                try:
                    await port.facts()
                except HypervisorUnreachable:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def close(self) -> None:
        await self.back()
        port = await self.another_port()
        for domain in await port.domains():
            await port.destroy(domain.instance_id, epoch=domain.epoch)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def another_port(self) -> LibvirtHypervisor:
        port = self.new_port()
        await self.open(port)
        return port

    async def crash(self, instance_id: str) -> None:
        await self._signal("KILL", f"qemu/guest-{int(instance_id, 16)}.pid")

    async def pause(self, instance_id: str) -> None:
        await pause(self.host.libvirt_uri, instance_id)

    async def away(self) -> None:
        """libvirtd hangs; guests go on."""
        await self._signal("STOP", "../libvirtd.pid")

    async def back(self) -> None:
        await self._signal("CONT", "../libvirtd.pid")

    async def kill_libvirtd(self) -> None:
        """The host's init starts it again."""
        await self._signal("KILL", "../libvirtd.pid")

    async def _signal(self, name: str, pid_file: str) -> None:
        """To a process inside the host, by libvirt's own pid file."""
        pid = (self.host.directory / "run" / "libvirt" / pid_file).read_text().strip()
        assert getattr(signal, f"SIG{name}")
        process = await self.host.exec(["/bin/sh", "-c", f"kill -{name} {int(pid)}"])
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()


@contextlib.asynccontextmanager
async def opened(bench: RealBench) -> AsyncIterator[RealBench]:
    await bench.open(bench.port)
    try:
        yield bench
    finally:
        await bench.close()
