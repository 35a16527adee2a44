"""The IPMI driver against a live BMC on loopback; and what it must never show."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evac_common.model.states import PowerKind
from evac_monitor.adapters.power_ipmi import IpmiPower
from evac_monitor.ports import PowerTarget
from tests.contract.power.contract import PowerContract

UUID = "00112233-4455-6677-8899-aabbccddeeff"
BMC = Path(__file__).with_name("bmc_process.py")
PASSWORD = "calvin"


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class IpmiBench:
    limit_s = 6.0
    system_uuid = UUID

    def __init__(self) -> None:
        self.driver = IpmiPower(call_limit_s=self.limit_s)
        self.port = free_port()
        self._off = False
        self._process = subprocess.Popen(
            [sys.executable, str(BMC), str(self.port), UUID],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._wait_for("ready")

    def _wait_for(self, word: str) -> None:
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline().strip()) != word:
            assert line, "the BMC process ended"
            self._off |= line == "off"

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        self._wait_for("done")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def target(self, *, password: str | None = None) -> PowerTarget:
        return PowerTarget(
            node_id="1" * 32,
            kind=PowerKind.IPMI,
            address="127.0.0.1",
            port=self.port,
            username="admin",
            password=PASSWORD if password is None else password,
        )

    def unreachable_target(self) -> PowerTarget:
        return PowerTarget(
            node_id="1" * 32,
            kind=PowerKind.IPMI,
            address="127.0.0.1",
            port=free_port(),
            username="admin",
            password=PASSWORD,
        )

    def is_on(self) -> bool:
        self._tell("look")
        return not self._off

    def make_slow(self) -> None:
        self._tell("slow")

    def make_lying(self) -> None:
        self._tell("lie")

    def hide_identity(self) -> None:
        self._tell("hide")


@pytest.fixture
def bench() -> Iterator[IpmiBench]:
    made = IpmiBench()
    yield made
    made.close()


@pytest.mark.slow
class TestIpmi(PowerContract):
    async def test_the_password_is_in_no_argument_and_no_environment(
        self, bench: IpmiBench
    ) -> None:
        bench.make_slow()
        call = asyncio.create_task(bench.driver.power_state(bench.target()))
        seen = await _child_seen()

        assert PASSWORD not in seen

        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    async def test_a_cancelled_call_leaves_no_process(self, bench: IpmiBench) -> None:
        bench.make_slow()
        call = asyncio.create_task(bench.driver.power_state(bench.target()))
        await _child_seen()

        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

        assert "ipmi_child" not in _descendants()


async def _child_seen() -> str:
    """What `_descendants` shows as soon as the driver's process is among them."""
    async with asyncio.timeout(5):
        while True:
            seen = _descendants()
            if "ipmi_child" in seen:
                return seen
            await asyncio.sleep(0.02)


def _descendants() -> str:
    """Arguments and environments of this process's children."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            for name in ("cmdline", "environ"):
                try:
                    found.append((Path("/proc") / pid / name).read_text(errors="replace"))
                except OSError:
                    continue  # it ended meanwhile
    return "\n".join(found)
