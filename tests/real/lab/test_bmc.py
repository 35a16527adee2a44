"""BMCs answer ipmitool, and the world follows: for lab hosts, and without root for groups."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from evac_common.model.states import PowerKind
from evac_lab.real.lab import BmcAccess, RealLab
from evac_lab.real.packages import find_program
from evac_lab.real.processes import Daemon, until
from evac_monitor.adapters.power_process import request_of
from evac_monitor.adapters.power_redfish import RedfishPower
from evac_monitor.adapters.power_wire import Answer
from evac_monitor.ports import PowerTarget

pytest.importorskip("pyghmi", reason="pyghmi is not installed: pip install evac-lab[real]")

pytestmark = pytest.mark.real

_PASSWORD = "secret"
_UUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")


@pytest.fixture(autouse=True)
def _ipmitool() -> None:
    if find_program("ipmitool") is None:
        pytest.skip("ipmitool is not installed: apt-get install ipmitool")


async def _ipmi(port: int, *command: str, enter: Sequence[str] = (), password: str) -> str:
    """What ipmitool prints, with both outputs together."""
    address = "10.77.0.254" if enter else "127.0.0.1"
    process = await asyncio.create_subprocess_exec(
        *enter,
        *("ipmitool", "-I", "lanplus", "-H", address, "-p", str(port), "-U", "admin"),
        *("-P", password, "-R", "1", "-N", "2", *command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return output.decode().strip()


@asynccontextmanager
async def _group_bmc(folder: Path, *command: str) -> AsyncIterator[int]:
    """The port of a BMC over the process group that `command` starts."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "password").write_text(_PASSWORD)
    bmc = Daemon(name="bmc", directory=folder)
    bmc.start(
        [
            *(sys.executable, "-m", "evac_lab.real.bmc", "--port", str(port)),
            *("--uuid", str(_UUID), "--password-file", str(folder / "password")),
            *("--faults", str(folder / "faults")),
            *("group", str(folder / "machine.pid"), "--", *command),
        ]
    )
    await until(lambda: "listening" in bmc.log_tail(), deadline_s=20, what="the BMC")
    try:
        yield port
    finally:
        await _ipmi(port, "power", "off", password=_PASSWORD)
        await bmc.kill9()


def _says(state: str) -> str:
    return f"Chassis Power is {state}"


async def test_off_kills_the_whole_group_and_on_starts_it_anew(tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    child = f"while :; do echo x >> {beats}; sleep 0.02; done"
    async with _group_bmc(tmp_path, "bash", "-c", f"({child}) & ({child}) & wait") as port:
        assert await _ipmi(port, "power", "status", password=_PASSWORD) == _says("off")

        await _ipmi(port, "power", "on", password=_PASSWORD)
        assert await _ipmi(port, "power", "status", password=_PASSWORD) == _says("on")
        await until(beats.exists, deadline_s=5, what="the machine lives")
        first = (tmp_path / "machine.pid").read_text()

        await _ipmi(port, "power", "off", password=_PASSWORD)
        size = beats.stat().st_size
        assert await _ipmi(port, "power", "status", password=_PASSWORD) == _says("off")
        await asyncio.sleep(0.2)
        assert beats.stat().st_size == size

        await _ipmi(port, "power", "on", password=_PASSWORD)
        assert (tmp_path / "machine.pid").read_text() != first


async def test_a_group_that_somebody_else_started_is_switched_too(tmp_path: Path) -> None:
    machine = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
    (tmp_path / "machine.pid").write_text(str(machine.pid))
    async with _group_bmc(tmp_path, "sleep", "60") as port:
        assert await _ipmi(port, "power", "status", password=_PASSWORD) == _says("on")
        await _ipmi(port, "power", "off", password=_PASSWORD)

        assert await machine.wait() == -9
        assert await _ipmi(port, "power", "status", password=_PASSWORD) == _says("off")


async def test_a_pid_file_can_never_aim_at_the_bmc_itself(tmp_path: Path) -> None:
    async with _group_bmc(tmp_path, "sleep", "60") as port:
        for number in ("0", "1", "-1", "nonsense", ""):
            (tmp_path / "machine.pid").write_text(number)
            await _ipmi(port, "power", "off", password=_PASSWORD)
            assert await _ipmi(port, "power", "status", password=_PASSWORD) == _says("off")


async def test_it_names_the_machine_and_refuses_strangers(tmp_path: Path) -> None:
    async with _group_bmc(tmp_path, "sleep", "60") as port:
        system = await _ipmi(port, "raw", "0x06", "0x37", password=_PASSWORD)
        device = await _ipmi(port, "raw", "0x06", "0x08", password=_PASSWORD)
        stranger = await _ipmi(port, "power", "status", password="wrong")

    assert bytes.fromhex(system) == bytes.fromhex(device) == _UUID.bytes_le
    assert "Unable to establish" in stranger


async def test_a_bad_bmc_is_bad_only_while_told(tmp_path: Path) -> None:
    faults = tmp_path / "faults"
    async with _group_bmc(tmp_path, "sleep", "60") as port:
        await _ipmi(port, "power", "on", password=_PASSWORD)

        faults.write_text("refuses")
        assert "busy" in await _ipmi(port, "power", "off", password=_PASSWORD)
        assert await _ipmi(port, "power", "status", password=_PASSWORD) == _says("on")

        faults.write_text("lies")
        await _ipmi(port, "power", "off", password=_PASSWORD)
        assert await _ipmi(port, "power", "status", password=_PASSWORD) == _says("on")

        faults.write_text("claims")
        await _ipmi(port, "power", "off", password=_PASSWORD)
        assert await _ipmi(port, "power", "status", password=_PASSWORD) == _says("off")

        faults.write_text("wrong")
        other = await _ipmi(port, "raw", "0x06", "0x37", password=_PASSWORD)
        assert bytes.fromhex(other) != _UUID.bytes_le

        faults.unlink()
        assert await _ipmi(port, "power", "status", password=_PASSWORD) == _says("on")


async def test_a_hosts_bmc_cuts_its_power_and_gives_it_back(two_hosts: RealLab) -> None:
    host, access = two_hosts.host("h1"), two_hosts.bmc("h1")
    boot_id = host.boot_id

    await _host_ipmi(two_hosts, access, "power", "off")
    assert not host.is_on()
    assert await _host_ipmi(two_hosts, access, "power", "status") == _says("off")

    await _host_ipmi(two_hosts, access, "power", "on")
    await host.wait_ready()
    assert host.boot_id != boot_id
    guid = await _host_ipmi(two_hosts, access, "raw", "0x06", "0x37")
    assert uuid.UUID(bytes_le=bytes.fromhex(guid)) == host.uuid


async def test_a_hosts_redfish_bmc_knows_it_and_cuts_its_power(two_hosts: RealLab) -> None:
    host = two_hosts.host("h2")

    assert (await _host_redfish(two_hosts, "identity"))["value"] == str(host.uuid)
    assert (await _host_redfish(two_hosts, "power_state"))["value"] == "on"

    assert await _host_redfish(two_hosts, "power_off") == {"value": None}
    assert not host.is_on()
    assert (await _host_redfish(two_hosts, "power_state"))["value"] == "off"


async def test_a_killed_bmc_is_unreachable_and_its_host_goes_on(two_hosts: RealLab) -> None:
    host, access = two_hosts.host("h1"), two_hosts.bmc("h1")
    await _host_ipmi(two_hosts, access, "power", "cycle")  # the host is now the BMC's own child

    await access.process.kill9()
    assert "Unable to establish" in await _host_ipmi(two_hosts, access, "power", "status")
    assert host.is_on()

    await two_hosts.start_bmc("h1")
    assert await _host_ipmi(two_hosts, access, "power", "status") == _says("on")


async def _host_ipmi(lab: RealLab, access: BmcAccess, *command: str) -> str:
    enter = ("nsenter", f"--net=/run/netns/{lab.control}", "--")
    return await _ipmi(access.port, *command, enter=enter, password=access.password)


async def _host_redfish(lab: RealLab, call: str) -> Answer:
    """What the monitor's driver would be answered, from within the control network."""
    access = lab.bmc("h2")
    assert access.tls_sha256 is not None
    target = PowerTarget(
        node_id="1" * 32,
        kind=PowerKind.REDFISH,
        address=access.address,
        port=access.port,
        username=access.user,
        password=access.password,
        tls_sha256=access.tls_sha256,
    )
    request = request_of(call, target, 10.0)
    process = await asyncio.create_subprocess_exec(
        *("nsenter", f"--net=/run/netns/{lab.control}", "--"),
        *(sys.executable, "-m", RedfishPower.CHILD),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(json.dumps(request).encode())
    answer: Answer = json.loads(output)
    return answer
