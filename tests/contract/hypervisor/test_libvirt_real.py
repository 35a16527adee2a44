"""The contract on a real libvirtd with real QEMU, in a host of the lab."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.contract.hypervisor.suite import PausableContract, WholeHypervisorContract

pytest.importorskip("libvirt", reason="libvirt-python is not installed: see requirements")

from evac_lab.real.host import Host
from tests.contract.hypervisor.real_host import RealBench, lab_host, opened

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with lab_host() as host:
        yield host


class TestLibvirtReal(WholeHypervisorContract, PausableContract):
    @pytest.fixture
    async def bench(self, host: Host) -> AsyncIterator[RealBench]:
        async with opened(RealBench(host)) as bench:
            yield bench
