"""A program of another language, with none of evac's code, hears that a node died."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from evac_lab.real.servers import RabbitMQ
from tests.acceptance.cluster import Acceptance, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="session"),
]

PROGRAM = Path(__file__).parent / "node_subscriber"
INSTALL_S = 120.0
DEAD_S = 40.0


async def test_a_javascript_subscriber_is_told_which_node_is_down(
    acceptance: Acceptance, tmp_path: Path
) -> None:
    folder = await _installed(tmp_path)
    await acceptance.make_whole()
    url = await _reader(acceptance.cluster.plane.site.broker)
    ids = {node["name"]: node["id"] for node in await acceptance.list("nodes")}

    async with _subscribed(folder, url) as heard:
        await acceptance.cluster.network("n5", on=False)

        async def missing() -> list[str]:
            return [] if _of(heard, "node.down") else [f"heard only {[e['key'] for e in heard]}"]

        await until("node.down is printed", missing, deadline_s=DEAD_S)

    (down,) = _of(heard, "node.down")
    assert down["body"]["node"] == "n5"
    assert down["body"]["node_id"] == ids["n5"]
    assert down["body"]["proof"] == "power"
    assert down["key"] == f"node.down.{ids['n5']}"
    assert down["type"].startswith("io.evac.event.node.down")
    assert down["contentType"] == "application/msgpack"
    names = [event["key"].rpartition(".")[0] for event in heard if ids["n5"] in event["key"]]
    assert names.index("node.suspect") < names.index("node.fencing") < names.index("node.down")


async def _installed(folder: Path) -> Path:
    """The program with its packages, of exactly the versions it names, in a copy."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed: apt-get install nodejs npm")
    copy = folder / "subscriber"
    shutil.copytree(PROGRAM, copy, ignore=shutil.ignore_patterns("node_modules"))
    install = await asyncio.create_subprocess_exec(
        *("npm", "install", "--no-package-lock", "--no-audit", "--no-fund"),
        cwd=copy,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(INSTALL_S):
        output, _ = await install.communicate()
    assert install.returncode == 0, output.decode()
    return copy


async def _reader(broker: RabbitMQ) -> str:
    """An outside tool's account: it may bind queues of its own to the events, and nothing else."""
    secret = secrets.token_urlsafe(16)
    own = "^amq\\.gen.*$"
    vhost = quote(broker.vhost, safe="")
    async with httpx2.AsyncClient(
        base_url=broker.management_url, auth=(broker.user, broker.password)
    ) as admin:
        for path, body in (
            ("/api/users/watcher", {"password": secret, "tags": ""}),
            (
                f"/api/permissions/{vhost}/watcher",
                {"configure": own, "write": own, "read": "^(amq\\.gen.*|evac\\.event)$"},
            ),
        ):
            (await admin.put(path, json=body)).raise_for_status()
    return broker.amqp_url_for("watcher", secret)


@asynccontextmanager
async def _subscribed(folder: Path, url: str) -> AsyncIterator[list[dict[str, Any]]]:
    """What the program prints, as it comes; it is subscribed when the block begins."""
    program = await asyncio.create_subprocess_exec(
        *("node", "subscribe.mjs", "node.#"),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "AMQP_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert program.stdout is not None
    assert program.stderr is not None
    heard: list[dict[str, Any]] = []

    async def listen(lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            heard.append(json.loads(line))

    listening = asyncio.create_task(listen(program.stdout), name="listen to the program")
    try:
        async with asyncio.timeout(20.0):
            said = await program.stderr.readline()
        assert said == b"subscribed\n", said + await program.stderr.read()
        yield heard
    finally:
        program.terminate()
        async with asyncio.timeout(20.0):
            await program.wait()
            await listening


def _of(heard: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in heard if event["key"].startswith(f"{name}.")]
