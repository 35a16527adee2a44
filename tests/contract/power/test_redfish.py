"""The Redfish driver against a live BMC on loopback, with TLS; and whom it trusts."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from evac_common.model.states import PowerKind
from evac_lab.real import certificates
from evac_monitor.adapters.power_process import request_of
from evac_monitor.adapters.power_redfish import RedfishPower
from evac_monitor.adapters.power_wire import Request
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
        self.sha256 = certificates.self_signed(folder / "bmc.pem", "127.0.0.1")

    def request(self, call: str, *, tls_sha256: str | None = None) -> Request:
        target = self.target() if tls_sha256 is None else self.target(tls_sha256=tls_sha256)
        return request_of(call, target, LIMIT_S)

    def options(self) -> list[str]:
        return ["--certificate", str(self.folder / "bmc.pem")]

    def target(
        self, *, password: str | None = None, port: int | None = None, **more: str
    ) -> PowerTarget:
        return super().target(password=password, port=port, **{"tls_sha256": self.sha256, **more})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[RedfishBench]:
    with RedfishBench(tmp_path) as made:
        yield made


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

    async def test_a_certificate_that_this_machine_trusts_needs_no_fingerprint(
        self, bench: RedfishBench
    ) -> None:
        request = bench.request("power_state", tls_sha256="")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", RedfishPower.CHILD),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={"SSL_CERT_FILE": str(bench.folder / "bmc.pem")},
        )
        output, _ = await process.communicate(json.dumps(request).encode())

        assert json.loads(output) == {"value": "on"}

    async def test_a_server_that_speaks_no_tls_is_asked_again(self, bench: RedfishBench) -> None:
        plain = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with plain:
            port = plain.sockets[0].getsockname()[1]
            with pytest.raises(PowerError) as failed:
                await bench.driver.power_state(bench.target(port=port))

        assert not failed.value.hopeless
        assert bench.sha256 not in str(failed.value)

    @pytest.mark.parametrize("letter", ["é", "€"])
    async def test_a_password_may_have_any_letter(self, bench: RedfishBench, letter: str) -> None:
        with pytest.raises(PowerError, match="user or password") as failed:
            await bench.driver.power_state(bench.target(password=f"x{letter}"))

        assert letter not in str(failed.value)

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

    async def test_a_system_that_is_not_there_is_an_error(self, bench: RedfishBench) -> None:
        with pytest.raises(PowerError, match="no such resource"):
            await bench.driver.power_off(bench.target(system="/redfish/v1/Systems/9"))

        assert bench.is_on()

    async def test_a_child_that_nobody_ends_ends_by_itself(self, bench: RedfishBench) -> None:
        bench.make_slow()
        request = {**bench.request("power_state"), "limit_s": 0.5}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", RedfishPower.CHILD),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await asyncio.wait_for(process.communicate(json.dumps(request).encode()), 10)

        assert b'"value"' not in output

    async def test_an_order_that_the_bmc_refuses_is_an_error_with_its_words(
        self, bench: RedfishBench
    ) -> None:
        bench.fault("refuses")

        with pytest.raises(PowerError, match="busy") as failed:
            await bench.driver.power_off(bench.target())

        assert not failed.value.hopeless
