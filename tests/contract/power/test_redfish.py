"""The Redfish driver against a live BMC on loopback, with TLS; and whom it trusts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from evac_common.model.states import PowerKind
from evac_lab.real import certificates
from evac_monitor.adapters.power_redfish import RedfishPower
from evac_monitor.core.fencing import PowerState
from evac_monitor.ports import PowerError, PowerTarget
from tests.contract.power.contract import PowerContract
from tests.contract.power.live import UUID, LiveBench, NothingShown

LIMIT_S = 6.0


class RedfishBench(LiveBench):
    kind = PowerKind.REDFISH
    socket_type = socket.SOCK_STREAM

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, RedfishPower(call_limit_s=LIMIT_S), limit_s=LIMIT_S)
        self.sha256 = certificates.self_signed(folder / "bmc.pem")

    def options(self) -> list[str]:
        return ["--certificate", str(self.folder / "bmc.pem")]

    def target(
        self, *, password: str | None = None, port: int | None = None, **more: str
    ) -> PowerTarget:
        return super().target(password=password, port=port, **{"tls_sha256": self.sha256, **more})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[RedfishBench]:
    made = RedfishBench(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.mark.slow
class TestRedfish(PowerContract, NothingShown):
    child: ClassVar[str] = "redfish_child"

    async def test_a_certificate_that_nobody_vouches_for_is_shown_and_not_trusted(
        self, bench: RedfishBench
    ) -> None:
        with pytest.raises(PowerError) as failed:
            await bench.driver.power_off(bench.target(tls_sha256=""))

        assert failed.value.hopeless
        assert f"Its SHA-256 is {bench.sha256}" in str(failed.value)
        assert bench.is_on()

    async def test_another_certificate_than_the_one_that_is_trusted_is_refused(
        self, bench: RedfishBench
    ) -> None:
        with pytest.raises(PowerError) as failed:
            await bench.driver.power_off(bench.target(tls_sha256="00" * 32))

        assert failed.value.hopeless
        assert bench.sha256 in str(failed.value)
        assert bench.is_on()

    async def test_one_of_several_systems_may_be_named(self, bench: RedfishBench) -> None:
        target = bench.target(system=f"/redfish/v1/Systems/{UUID}")

        assert await bench.driver.power_state(target) is PowerState.ON

    async def test_a_system_that_is_not_there_is_hopeless(self, bench: RedfishBench) -> None:
        with pytest.raises(PowerError, match="no such resource") as failed:
            await bench.driver.power_off(bench.target(system="/redfish/v1/Systems/9"))

        assert failed.value.hopeless
        assert bench.is_on()

    async def test_an_order_that_the_bmc_refuses_is_an_error_with_its_words(
        self, bench: RedfishBench
    ) -> None:
        bench.fault("refuses")

        with pytest.raises(PowerError, match="busy") as failed:
            await bench.driver.power_off(bench.target())

        assert not failed.value.hopeless
