"""The contract on libvirt's own test driver: real domains, events and errors, no machines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from evac_common.messages.commands import DiskSpec
from evac_common.messages.reports import StartErrorKind
from evac_common.model.states import PoolKind
from evac_compute.ports import HypervisorUnreachable, StartError
from tests.contract.hypervisor.pausing import pause
from tests.contract.hypervisor.suite import (
    GEN,
    HypervisorContract,
    PausableContract,
    fresh_id,
    spec,
)

libvirt: Any = pytest.importorskip("libvirt", reason="libvirt-python is not installed")

from evac_compute.adapters.libvirt_driver.domain_xml import DomainOptions, dashed  # noqa: E402
from evac_compute.adapters.libvirt_driver.driver import LibvirtHypervisor  # noqa: E402

pytestmark = pytest.mark.real
URI = "test:///default"


class MockBench:
    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self.port = self._port()

    def _port(self) -> LibvirtHypervisor:
        return LibvirtHypervisor(URI, options=DomainOptions(virt_type="test"), threads=2)

    async def open(self, port: LibvirtHypervisor) -> None:
        self._tasks.append(asyncio.create_task(port.run()))
        async with asyncio.timeout(15):
            while True:
                try:
                    await port.facts()
                except HypervisorUnreachable:
                    await asyncio.sleep(0.02)
                else:
                    return

    async def close(self) -> None:
        for domain in await self.port.domains():
            await self.port.destroy(domain.instance_id, epoch=domain.epoch)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def another_port(self) -> LibvirtHypervisor:
        port = self._port()
        await self.open(port)
        return port

    async def crash(self, instance_id: str) -> None:
        def dump() -> None:
            connection = libvirt.open(URI)
            domain = connection.lookupByUUIDString(dashed(instance_id))
            domain.coreDump("/dev/null", libvirt.VIR_DUMP_CRASH)
            connection.close()

        await asyncio.to_thread(dump)

    async def pause(self, instance_id: str) -> None:
        await pause(URI, instance_id)


class TestLibvirtMock(HypervisorContract, PausableContract):
    @pytest.fixture
    async def bench(self) -> AsyncIterator[MockBench]:
        bench = MockBench()
        await bench.open(bench.port)
        yield bench
        await bench.close()

    async def test_a_domain_that_is_not_evacs_is_left_alone(self, bench: MockBench) -> None:
        connection = libvirt.open(URI)
        foreign = connection.lookupByName("test")
        instance_id = foreign.UUIDString().replace("-", "")

        found = await bench.port.find(instance_id)
        assert found is not None
        assert found.epoch == 0
        await bench.port.destroy(instance_id, epoch=9)
        await bench.port.stop(instance_id, epoch=9, grace_s=0.1)
        assert foreign.isActive()
        with pytest.raises(StartError):
            await bench.port.start(
                spec(fresh_id()), instance_id=instance_id, epoch=1, run=1, gen=GEN
            )
        connection.close()

    async def test_a_definition_that_libvirt_does_not_take_is_invalid(
        self, bench: MockBench
    ) -> None:
        one = fresh_id()
        disk = DiskSpec(pool_kind=PoolKind.DIR, source="/srv", volume="a.raw", format="raw")
        wanted = spec(one).model_copy(update={"disks": [disk] * 27})
        with pytest.raises(StartError) as raised:
            await bench.port.start(wanted, instance_id=one, epoch=1, run=1, gen=GEN)
        assert raised.value.kind is StartErrorKind.INVALID
