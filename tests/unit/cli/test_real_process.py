"""The real command in its own process, against the real HTTP server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tomllib
from pathlib import Path

import pytest

from tests.unit.api.test_service import serving

__all__ = ["serving"]

MANIFEST = """\
pools:
  shared: {kind: nfs, source: /srv/vm, nodes: [n1]}
instances:
  web-1: {vcpus: 2, memory_mib: 2048, run_strategy: Halted, disks: [{pool: shared}]}
"""


async def evac(url: str, token: str, *argv: str, limit_s: float = 30) -> tuple[int, str, str]:
    process = await start(url, token, *argv)
    async with asyncio.timeout(limit_s):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def start(url: str, token: str, *argv: str) -> asyncio.subprocess.Process:
    environment = {
        **os.environ,
        "EVAC_URL": url,
        "EVAC_TOKEN": token,
        "EVAC_CONFIG": "/nonexistent",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "evac_common.cli.main",
        *argv,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=hear_ctrl_c,
    )


def hear_ctrl_c() -> None:
    """As at a terminal: whoever runs the tests in the background hands down an ignored SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def database(tmp_path: Path, migrated: bytes) -> Path:
    path = tmp_path / "evac.db"
    path.write_bytes(migrated)
    return path


@pytest.mark.slow
async def test_a_site_is_set_up_looked_at_and_taken_down(database: Path, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(MANIFEST)
    async with serving(database) as (http, _):
        url = str(http.base_url)
        token = http.headers["authorization"].removeprefix("Bearer ")

        enrolled = await evac(url, token, "node", "enrol", "n1", "--vcpus", "4", "--memory", "8GiB")
        applied = await evac(url, token, "apply", "-f", str(site))
        listed = await evac(url, token, "instance", "list", "--json")
        refused = await evac(url, token, "node", "fence", "n1", "--reason", "a test")
        deleted = await evac(url, token, "delete", "-f", str(site))

        assert tomllib.loads(enrolled[1])["name"] == "n1"
        assert applied[:2] == (0, "pool shared: created\ninstance web-1: created\n")
        assert json.loads(listed[1])[0]["status"] == "stopped"
        assert (refused[0], "`evac node forget` removes it" in refused[2]) == (1, True)
        assert (deleted[0], "web-1: succeeded" in deleted[1]) == (0, True)


async def test_tail_follows_events_and_survives_the_api_going_away(database: Path) -> None:
    async with serving(database) as (http, state):
        url = str(http.base_url)
        port = http.base_url.port
        token = http.headers["authorization"].removeprefix("Bearer ")
        tail = await start(url, token, "event", "tail", "--after", "0", "--count", "2", "--json")
        assert tail.stdout is not None
        body = {"name": "a", "vcpus": 1, "memory_mib": 64}
        await http.post("/v1/instances", json=body)
        async with asyncio.timeout(30):
            first = json.loads(await tail.stdout.readline())
    async with serving(database, state=state, port=port) as (again, _):
        await again.post("/v1/instances", json={"name": "b", "vcpus": 1, "memory_mib": 64})
        async with asyncio.timeout(30):
            second = json.loads(await tail.stdout.readline())
            code = await tail.wait()

    assert [one["data"]["instance"] for one in (first, second)] == ["a", "b"]
    assert code == 0


async def test_ctrl_c_ends_a_tail_quietly(database: Path) -> None:
    async with serving(database) as (http, _):
        token = http.headers["authorization"].removeprefix("Bearer ")
        await http.post("/v1/instances", json={"name": "a", "vcpus": 1, "memory_mib": 64})
        tail = await start(str(http.base_url), token, "event", "tail", "--after", "0")
        assert tail.stdout is not None
        async with asyncio.timeout(30):
            await tail.stdout.readline()
            tail.send_signal(signal.SIGINT)
            _, err = await tail.communicate()

    assert tail.returncode == 130
    assert b"Traceback" not in err
