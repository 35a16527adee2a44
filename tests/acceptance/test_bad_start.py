"""Starts that go wrong, of real processes: servers are away, settings do not fit together."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from evac_lab.real.controllers import (
    SERVICES,
    ControlPlane,
    Site,
    as_environment,
    readiness,
)
from evac_lab.real.ports import free_ports
from evac_lab.real.process_nodes import ProcessNode
from evac_lab.real.processes import ProcessId
from evac_lab.real.servers import PostgreSQL, RabbitMQ, missing_programs
from tests.acceptance.cluster import until

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="session"),
]

AWAY_S = 5.0  # several attempts to connect, a second apart at most
ANSWER_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A prepared control plane and one enrolled node, all of it stopped; only the servers run."""

    plane: ControlPlane
    node: ProcessNode
    node_port: int

    async def not_ready(self, service: str) -> str:
        if service == "compute":
            return await readiness(self.node_port)
        return await self.plane.not_ready(service)

    def process(self, service: str) -> ProcessId | None:
        return self.node.daemon() if service == "compute" else self.plane.process(service)

    def log(self, service: str) -> Path:
        if service == "compute":
            return self.node.directory / "compute.log"
        return self.plane.log(service)


ALL = (*SERVICES, "compute")


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="evac-start-"))
    folder.chmod(0o711)  # PostgreSQL's user passes through
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def parts() -> AsyncIterator[Parts]:
    if lacking := missing_programs():
        pytest.skip(f"real servers are not installed: apt-get install {' '.join(lacking)}")
    base = _folder()
    site = Site(
        directory=base / "control",
        broker=RabbitMQ(directory=base / "broker"),
        database=PostgreSQL(directory=base / "database"),
    )
    plane = ControlPlane(site, profile="fast")
    node = ProcessNode(base / "node", name="n1", bmc_password="unused")
    (node_port,) = free_ports(1)
    try:
        await asyncio.gather(site.broker.start(), site.database.start())
        await plane.prepare()
        await plane.start()
        api = await plane.api()
        body = {"name": "n1", "vcpus": 4, "memory_mib": 4096}
        answer = await api.post("/v1/nodes", json=body)
        answer.raise_for_status()
        node.enrol(
            answer.json()["credentials"],
            capacity=(4, 4096),
            bridges=(),
            start_delay_s=0.1,
            poweroff_delay_s=0.1,
            restart_s=1.0,
            settings=as_environment("EVAC_COMPUTE_", {"profile": "fast", "health_port": node_port}),
        )
        await asyncio.gather(*(plane.stop_service(service) for service in SERVICES))
        yield Parts(plane=plane, node=node, node_port=node_port)
    finally:
        await node.discard()
        await plane.discard()
        await site.broker.discard()
        await site.database.discard()
        shutil.rmtree(base)


@pytest.mark.parametrize("away", [("broker",), ("database",), ("broker", "database")])
async def test_services_wait_for_what_is_away_at_their_start(
    parts: Parts, away: Sequence[str]
) -> None:
    servers: dict[str, RabbitMQ | PostgreSQL] = {
        "broker": parts.plane.site.broker,
        "database": parts.plane.site.database,
    }
    concerned = [name for name in ALL if name != "compute" or "broker" in away]
    for service in ALL:
        parts.log(service).unlink(missing_ok=True)
    await asyncio.gather(*(servers[name].stop() for name in away))
    try:
        for service in SERVICES:
            parts.plane.start_service(service)
        parts.node.boot()

        async def unsaid() -> list[str]:
            said = {service: await parts.not_ready(service) for service in concerned}
            return [
                f"{service} says {reason!r}, nothing of the {server}"
                for service, reason in said.items()
                for server in away
                if (service, server) != ("compute", "database")  # which it does not use
                and not (reason.startswith("503") and server in reason)
            ]

        await until("reasons on /readyz", unsaid, deadline_s=ANSWER_S)
        first = {service: parts.process(service) for service in ALL}
        assert None not in first.values()
        ends_s = asyncio.get_running_loop().time() + AWAY_S
        while asyncio.get_running_loop().time() < ends_s:
            for service in concerned:
                assert (await parts.not_ready(service)).startswith("503"), service
            await asyncio.sleep(0.5)

        await asyncio.gather(*(servers[name].start() for name in away))
        await parts.plane.wait_ready()
        await until("the daemon ready", lambda: _reasons(parts, "compute"), deadline_s=ANSWER_S)
        assert {service: parts.process(service) for service in ALL} == first, "nobody restarted"
        for service in concerned:
            assert _repeated(parts.log(service)) == []
    finally:
        await asyncio.to_thread(parts.node.cut)
        await asyncio.gather(*(parts.plane.stop_service(service) for service in SERVICES))
        for server in servers.values():
            if not server.is_running():
                await server.start()


async def _reasons(parts: Parts, service: str) -> list[str]:
    said = await parts.not_ready(service)
    return [said] if said else []


def _repeated(log: Path) -> list[str]:
    """Warnings that a service gave more than once for the same thing."""
    said: Counter[tuple[str, ...]] = Counter()
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        if entry["level"] in {"warning", "error"} and "hold-off" not in entry["event"]:
            reasons = entry.get("why", "").split("; ") if entry["event"] == "not ready" else ()
            about = ",".join(reason.partition(":")[0] for reason in reasons)
            said[entry["event"], entry.get("loop", ""), about] += 1
    return [f"{times} times: {what}" for what, times in said.items() if times > 1]


@pytest.mark.parametrize(
    ("service", "settings", "named"),
    [
        (
            "monitor",
            {"suspect_after_s": 3},
            "suspect_after_s (3) >= 3 heartbeat_interval_s + jitter (7)",
        ),
        ("monitor", {"fence_after_s": 12}, "fence_after_s (12) >= 2 suspect_after_s (16)"),
        (
            "monitor",
            {"hold_off_s": 1, "reconnect_cap_s": 60},
            "hold_off_s + fence_after_s (21) > reconnect_cap_s",
        ),
        ("scheduler", {"backoff_max_s": 1}, "backoff_max_s (1) >= backoff_min_s (2)"),
        ("compute", {"reregister_after_s": 1}, "reregister_after_s (1.0) must be at least 3"),
        ("api", {"listen": "nowhere"}, "listen"),
    ],
)
async def test_settings_that_do_not_fit_together_are_refused_by_name(
    service: str, settings: dict[str, float], named: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"evac_{service}.cli", "run"),
        env=as_environment(f"EVAC_{service.upper()}_", settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(ANSWER_S):
        output, _ = await process.communicate()
    assert process.returncode == 2
    assert named in output.decode()
    assert "Traceback" not in output.decode()
