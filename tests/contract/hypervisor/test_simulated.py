"""The contract on the simulated hypervisor: in this process, and as a process of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from evac_compute.adapters.simulated.core import HypervisorCore
from evac_compute.adapters.simulated.local import LocalHypervisor, SimulatedHypervisor
from evac_compute.adapters.simulated.log import read_log
from evac_compute.adapters.simulated.remote import RemoteHypervisor
from evac_compute.ports import HypervisorUnreachable
from tests.contract.hypervisor.suite import (
    PausableContract,
    WholeHypervisorContract,
    fresh_id,
    start,
    until,
)

DELAY_S = 0.02


class LocalBench:
    def __init__(self) -> None:
        core = HypervisorCore(node="n1", vcpus=8, memory_mib=4096, bridges=("br0",))
        self.hypervisor = SimulatedHypervisor(core, start_delay_s=DELAY_S, poweroff_delay_s=DELAY_S)
        self.port = LocalHypervisor(self.hypervisor)

    async def another_port(self) -> LocalHypervisor:
        return LocalHypervisor(self.hypervisor)

    async def crash(self, instance_id: str) -> None:
        self.hypervisor.end_guest(instance_id, "crash")

    async def pause(self, instance_id: str) -> None:
        self.hypervisor.core.guests[instance_id].paused = True

    async def away(self) -> None:
        self.hypervisor.go_away()

    async def back(self) -> None:
        self.hypervisor.come_back()


class TestLocal(WholeHypervisorContract, PausableContract):
    @pytest.fixture
    async def bench(self) -> LocalBench:
        return LocalBench()


class ProcessBench:
    """A hypervisor process, killed and started like a machine."""

    def __init__(self, directory: Path) -> None:
        self.socket, self.log = directory / "socket", directory / "log"
        self.process: asyncio.subprocess.Process | None = None
        self.port = self._port()
        self._tasks: list[asyncio.Task[None]] = []

    def _port(self) -> RemoteHypervisor:
        return RemoteHypervisor(self.socket, call_time_limit_s=5, reconnect_max_s=0.1)

    async def open(self) -> None:
        await self.back()
        await self.connect(self.port)

    async def connect(self, port: RemoteHypervisor) -> None:
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
        await self.close_daemon()
        if self.process is not None and self.process.returncode is None:
            await self.away()

    async def close_daemon(self) -> None:
        """The daemon's end of the connection goes; the process stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def another_port(self) -> RemoteHypervisor:
        port = self._port()
        await self.connect(port)
        return port

    async def crash(self, instance_id: str) -> None:
        await self.port.control("end_guest", instance_id=instance_id, how="crash")

    async def away(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def back(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "evac_compute.adapters.simulated.process",
            *("--socket", str(self.socket), "--log", str(self.log), "--node", "n1"),
            *("--start-delay-s", str(DELAY_S), "--poweroff-delay-s", str(DELAY_S)),
            *("--bridge", "br0"),
        )


class TestProcess(WholeHypervisorContract):
    @pytest.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[ProcessBench]:
        bench = ProcessBench(tmp_path)
        await bench.open()
        yield bench
        await bench.close()

    async def test_a_killed_process_ends_its_guests_and_the_log_bounds_their_end(
        self, bench: ProcessBench
    ) -> None:
        one, two = fresh_id(), fresh_id()
        await start(bench.port, one)
        await start(bench.port, two)
        await bench.port.destroy(two, epoch=1)
        await asyncio.sleep(0.3)
        await bench.away()
        await bench.back()
        await until(lambda: bench.log.read_text().count('"booted"') == 2)

        runs = {run.instance_id: run for run in read_log(bench.log)}

        assert not runs[one].ended
        assert runs[one].seen_until - runs[one].started_at >= 0.2
        assert runs[two].ended
        assert runs[two].why == "destroyed"
        port = await bench.another_port()
        assert await port.domains() == ()

    async def test_a_daemon_that_dies_takes_no_guest_with_it(self, bench: ProcessBench) -> None:
        one = fresh_id()
        await start(bench.port, one)
        await bench.close_daemon()
        port = await bench.another_port()
        assert [domain.instance_id for domain in await port.domains()] == [one]

    async def test_what_a_hung_process_does_late_does_not_execute(
        self, bench: ProcessBench
    ) -> None:
        impatient = RemoteHypervisor(bench.socket, call_time_limit_s=5, start_time_limit_s=0.2)
        await bench.connect(impatient)
        one = fresh_id()
        await bench.port.control("hang_starts")
        with pytest.raises(HypervisorUnreachable):
            await start(impatient, one)
        await impatient.destroy(one, epoch=1)
        await bench.port.control("resume")
        async with asyncio.timeout(5):
            while True:
                found = await bench.port.find(one)
                if found is not None:
                    break
                await asyncio.sleep(0.02)
        assert not found.running
        assert read_log(bench.log) == []
