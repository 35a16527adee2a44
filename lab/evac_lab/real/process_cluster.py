"""A whole cluster of real processes, without root: real broker, database, services, daemons, BMCs.

Only the hypervisors are simulated, each a process of its own whose log says what really ran.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx2

from evac_common.cli.output import Output
from evac_common.model.states import PowerKind
from evac_compute.adapters.simulated.log import boottime_s
from evac_lab.judge import Execution
from evac_lab.real import actions
from evac_lab.real.controllers import ControlPlane, Site, as_environment
from evac_lab.real.errors import CannotRunHere
from evac_lab.real.process_nodes import BMC_USER, ProcessNode
from evac_lab.real.servers import PostgreSQL, RabbitMQ, missing_programs
from evac_lab.scenario.document import ScenarioNode
from evac_lab.scenario.reading import Scenario
from evac_lab.scenario.timeline import Action, BmcState


@dataclass(frozen=True, slots=True, kw_only=True)
class Guests:
    """How guests of the simulated hypervisors behave. A start takes `start_delay_s(NODE)`."""

    start_delay_s: Callable[[str], float] = lambda _node: 0.5
    poweroff_delay_s: float = 1.0


class ProcessCluster:
    """The cluster of one scenario; `runner.Cluster` for the runner."""

    def __init__(self, scenario: Scenario, plane: ControlPlane, *, guests: Guests) -> None:
        self.plane = plane
        self._scenario = scenario
        self._guests = guests
        document = scenario.document
        password = secrets.token_hex(8)  # IPMI allows 20 bytes
        self.nodes = {
            name: ProcessNode(
                plane.site.directory.parent / f"node{number}",
                name=name,
                bmc_password=password,
                redfish=node.power_kind is PowerKind.REDFISH,
            )
            for number, (name, node) in enumerate(document.nodes.items(), start=1)
        }
        self._api: httpx2.AsyncClient | None = None
        self._names: dict[str, str] = {}  # instance id -> name

    @classmethod
    @asynccontextmanager
    async def running(
        cls, scenario: Scenario, *, guests: Guests | None = None, directory: Path | None = None
    ) -> AsyncIterator[Self]:
        """Broker, database, controllers and BMCs run; nodes are off. All is ended afterwards.

        `directory` keeps the logs; without it everything is removed. Raises DocumentInvalid for
        what it cannot do of the scenario, and CannotRunHere.
        """
        actions.refuse_what_no_real_lab_does(scenario)
        if lacking := missing_programs():
            packages = " ".join(lacking)
            raise CannotRunHere(f"programs are missing: apt-get install {packages}")
        # PostgreSQL's user passes through; a socket's path must be short.
        base = directory or Path(tempfile.mkdtemp(prefix="evac-lab-"))
        base.mkdir(mode=0o711, parents=True, exist_ok=True)
        base.chmod(0o711)
        site = Site(
            directory=base / "control",
            broker=RabbitMQ(directory=base / "broker"),
            database=PostgreSQL(directory=base / "database"),
        )
        profile = scenario.document.profile
        plane = ControlPlane(site, profile=profile, settings=scenario.settings_of)
        cluster = cls(scenario, plane, guests=guests or Guests())
        try:
            await cluster.start()
            yield cluster
        finally:
            await cluster.discard()
            if directory is None:
                shutil.rmtree(base)

    async def start(self) -> None:
        """Start all but the nodes; every service is ready when this returns."""
        site = self.plane.site
        async with asyncio.TaskGroup() as group:
            group.create_task(site.broker.start(), name="start the broker")
            group.create_task(site.database.start(), name="start the database")
        await self.plane.prepare()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.plane.start(), name="start the controllers")
            for name, node in self.nodes.items():
                if self._scenario.document.nodes[name].power is not None:
                    group.create_task(node.start_bmc(), name=f"start the BMC of {name}")
        self._api = await self.plane.api()

    async def discard(self) -> None:
        """End every process of the cluster at once."""
        for node in self.nodes.values():
            await node.discard()
        await self.plane.discard()
        await self.plane.site.broker.discard()
        await self.plane.site.database.discard()

    # -- runner.Cluster ------------------------------------------------------------------------

    @property
    def api(self) -> httpx2.AsyncClient:
        assert self._api is not None, "start() comes first"
        return self._api

    async def enrolled(self, name: str, identity: Mapping[str, Any]) -> None:
        declared = self._scenario.document.nodes[name]
        values = {"profile": self.plane.profile, "name": name}
        self.nodes[name].enrol(
            identity,
            capacity=(declared.vcpus, declared.memory_mib),
            bridges=declared.bridges,
            start_delay_s=self._guests.start_delay_s(name),
            poweroff_delay_s=self._guests.poweroff_delay_s,
            restart_s=self.plane.restart_s,
            settings=as_environment(
                "EVAC_COMPUTE_", {**values, **self._scenario.settings_of("compute")}
            ),
        )

    def power_of(self, name: str, node: ScenarioNode) -> Mapping[str, Any] | None:
        if node.power_kind is None:
            return None
        made = self.nodes[name]
        return {
            "kind": node.power_kind.value,
            "address": "127.0.0.1",
            "port": made.bmc_port,
            "username": BMC_USER,
            "password": made.bmc_password,
            "tls_sha256": made.bmc_sha256,
        }

    def disks_of(self, instance: str) -> Sequence[Mapping[str, Any]]:
        return ()

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def act(self, action: Action) -> None:
        await actions.act(self, action)

    async def evac(self, argv: Sequence[str], output: Output) -> int:
        return await actions.evac(self.api, self.plane.token, argv, output)

    async def power(self, name: str, *, on: bool) -> None:
        node = self.nodes[name]
        await asyncio.to_thread(node.cut) if not on else node.boot()

    async def network(self, name: str, *, on: bool) -> None:
        node = self.nodes[name]
        node.plug() if on else node.unplug()

    async def bmc(self, name: str, state: BmcState) -> None:
        node = self.nodes[name]
        await actions.make_bmc(state, node.bmc, node.bmc_faults, node.start_bmc)

    async def kill(self, service: str, node: str | None) -> None:
        if node is None:
            await self.plane.kill9(service)
        else:
            self.nodes[node].kill_daemon()

    def hardware(self, name: str) -> tuple[str, str]:
        node = self.nodes[name]
        return ("on" if node.is_on() else "off", "ok" if node.is_plugged() else "cut")

    async def executions(self) -> Sequence[Execution]:
        # The logs' clock counts suspended time, the loop's does not; both go at the same pace.
        ahead_s = boottime_s() - time.clock_gettime(time.CLOCK_MONOTONIC)
        runs = [found for node in self.nodes.values() for found in node.runs()]
        if unknown := {run.instance_id for run, _ in runs} - self._names.keys():
            await self._learn_names(unknown)
        return [
            Execution(
                instance=self._names[run.instance_id],
                node=run.node,
                started_s=run.started_at - ahead_s,
                ended_s=None if alive else run.seen_until - ahead_s,
            )
            for run, alive in runs
        ]

    async def _learn_names(self, unknown: set[str]) -> None:
        """Names of instances that are new to us. One that the api does not know keeps its id."""
        after = ""
        while True:
            answer = await self.api.get("/v1/instances", params={"after": after, "limit": 500})
            answer.raise_for_status()
            page = answer.json()
            self._names |= {item["id"]: item["name"] for item in page["items"]}
            if page["next"] is None:
                break
            after = page["next"]
        for instance_id in sorted(unknown - self._names.keys()):
            self._names[instance_id] = instance_id
