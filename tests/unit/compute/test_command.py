"""`evac-compute` as a process: what it needs to start, and what it goes on without."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

NODE_ID = "0123456789abcdef0123456789abcdef"
pytestmark = pytest.mark.slow


class Node:
    """A node's files, and a port of loopback where no broker listens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[asyncio.subprocess.Process] = []
        (folder / "boot_id").write_text("boot-1\n")
        (folder / "product_uuid").write_text("7e5f4d3c-0000-4000-8000-000000000001\n")
        (folder / "node.toml").write_text(
            f'node_id = "{NODE_ID}"\nname = "n1"\nbus_url = "amqp://127.0.0.1:1/evac"\n'
            f'user = "compute-{NODE_ID}"\nsecret = "s3cret"\n'
        )
        (folder / "compute.toml").write_text(
            f'node_file = "{folder}/node.toml"\nstate_dir = "{folder}/state"\n'
            f'boot_id_file = "{folder}/boot_id"\ndmi_dir = "{folder}"\n'
            f'hypervisor = "simulated:{folder}/socket"\ncall_time_limit_s = 3\n'
        )

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    async def compute(self, verb: str) -> asyncio.subprocess.Process:
        config = str(self.folder / "compute.toml")
        return await self.start("-m", "evac_compute.cli", verb, "--config", config)

    async def hypervisor(self) -> asyncio.subprocess.Process:
        process = await self.start(
            *("-m", "evac_compute.adapters.simulated.process", "--node", "n1"),
            *("--socket", str(self.folder / "socket"), "--log", str(self.folder / "log")),
        )
        async with asyncio.timeout(20):
            while True:
                if (self.folder / "socket").exists():
                    return process
                await asyncio.sleep(0.05)

    async def ended(self, process: asyncio.subprocess.Process) -> tuple[int, str, str]:
        async with asyncio.timeout(20):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path)
    yield node
    for process in node.processes:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _says(process: asyncio.subprocess.Process, text: str) -> None:
    assert process.stderr is not None
    async with asyncio.timeout(20):
        while text not in (line := (await process.stderr.readline()).decode()):
            assert line, f"it ended without saying {text!r}"


async def test_check_names_node_and_hypervisor(node: Node) -> None:
    await node.hypervisor()
    code, out, err = await node.ended(await node.compute("check"))
    assert (code, err) == (0, "")
    assert NODE_ID in out
    assert "simulated 1: 32 CPUs, 131072 MiB" in out


async def test_check_says_that_the_hypervisor_is_away(node: Node) -> None:
    code, _, err = await node.ended(await node.compute("check"))
    assert code == 1
    assert "socket" in err


async def test_without_broker_and_hypervisor_it_runs_on_and_ends_by_sigterm(node: Node) -> None:
    daemon = await node.compute("run")
    await _says(daemon, "registration waits")
    daemon.terminate()
    code, _, err = await node.ended(daemon)
    assert code == 0
    assert "s3cret" not in err
    assert "Traceback" not in err


async def test_a_second_daemon_of_the_same_node_does_not_start(node: Node) -> None:
    first = await node.compute("run")
    await _says(first, "registration waits")
    code, _, err = await node.ended(await node.compute("run"))
    assert code == 1
    assert "journal.sqlite" in err
    assert first.returncode is None


async def test_without_node_file_it_refuses_to_start(node: Node) -> None:
    (node.folder / "node.toml").unlink()
    code, _, err = await node.ended(await node.compute("run"))
    assert code == 2
    assert "node.toml" in err
