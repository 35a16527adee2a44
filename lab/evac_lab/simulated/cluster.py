"""A whole cluster in one process: the services' real code, simulated hardware, virtual time.

Every service is a process of its own, with its own bus connection, database connection and clock;
it can be killed, stopped or hung at any await. This is where the parts are put together: `kernel`
holds what processes share, `controllers` and `nodes` run them, `desk` does to all of it what the
time line says.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2

from evac_api.adapters.access import StoredTokens
from evac_common.bus.timings import BusTimings
from evac_common.cli.main import run as evac_command
from evac_common.cli.output import Output
from evac_common.cli.session import Session
from evac_common.store.migrations import migrate
from evac_lab.judge import Execution
from evac_lab.oracle.ports import Witness
from evac_lab.runner import LabFailed
from evac_lab.scenario.document import ScenarioNode
from evac_lab.scenario.reading import Scenario
from evac_lab.scenario.timeline import BROKER, Action
from evac_lab.simulated.controllers import Controllers
from evac_lab.simulated.desk import Desk
from evac_lab.simulated.gate import ADDRESS
from evac_lab.simulated.kernel import Kernel
from evac_lab.simulated.loop import SeededLoop
from evac_lab.simulated.machine import Machine
from evac_lab.simulated.network import Network
from evac_lab.simulated.nodes import BMC_PASSWORD, BMC_USER, Nodes, bmc_address
from evac_lab.simulated.process import SimulatedProcess
from evac_lab.simulated.telling import Telling
from evac_lab.simulated.witnesses import Witnesses
from evac_monitor.adapters.power_simulated import SimulatedPower
from evac_monitor.ports import PowerDriver

DATABASE_FILE = "evac.sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubles:
    """What a test may put in place of the simulated world's parts."""

    power: PowerDriver | None = None


class SimulatedCluster:
    """The cluster of one scenario; `runner.Cluster` for the runner."""

    def __init__(
        self,
        loop: SeededLoop,
        scenario: Scenario,
        *,
        seed: int,
        directory: Path,
        doubles: Doubles,
        witness: Witness | None = None,
    ) -> None:
        self.database_file = directory / DATABASE_FILE
        fast = scenario.document.profile == "fast"
        self._network = Network(scenario.document.nodes)
        self._kernel = Kernel(
            loop,
            seed=seed,
            path=self.database_file,
            timings=BusTimings(backoff_max_s=1.0 if fast else 15.0),
            network=self._network,
            telling=Telling(loop, witness),
        )
        self._nodes = Nodes(self._kernel, scenario)
        power = doubles.power or SimulatedPower(self._nodes.bmc_at)
        self._controllers = Controllers(
            self._kernel,
            scenario,
            power=power,
            witnesses=Witnesses(self._network, self._nodes),
        )
        self._desk = Desk(self._kernel, self._controllers, self._nodes)
        self._clock = self._kernel.clock("lab")
        self._names: dict[str, str] = {}  # instance id → name
        self._client: httpx2.AsyncClient | None = None
        self._token = ""

    @property
    def machines(self) -> Mapping[str, Machine]:
        return self._nodes.machines

    @property
    def processes(self) -> Mapping[str, SimulatedProcess]:
        """Every process that exists: `monitor-1`, `compute@n1`."""
        daemons = {daemon.name: daemon for daemon in self._nodes.daemons}
        return {**self._controllers.processes, **daemons}

    @property
    def digest(self) -> str:
        """A fingerprint of the run so far: the same for the same seed."""
        return self._kernel.loop.digest()

    # -- bringing it up ------------------------------------------------------------------------

    async def start(self) -> None:
        """Create the database, the first token, and start the controllers."""
        migrate(self._kernel.url)
        store = self._kernel.outside_store()
        token = await StoredTokens(store).issue("lab")
        await store.close()
        self._token, self._client = token, self._controllers.gate.client(token)
        for process in self._controllers.processes.values():
            process.start()
        await self._api_is_ready()

    async def _api_is_ready(self) -> None:
        for _ in range(600):
            await asyncio.sleep(0.1)
            with contextlib.suppress(httpx2.ConnectError):
                if (await self.api.get("/readyz")).status_code == 200:
                    return
        raise LabFailed("the simulated api was not ready after 60 s")

    @property
    def api(self) -> httpx2.AsyncClient:
        assert self._client is not None, "start() comes first"
        return self._client

    async def evac(self, argv: Sequence[str], output: Output) -> int:
        """Run one command of the operator, as a shell would; its exit code."""
        session = Session(
            out=output,
            environment={"EVAC_URL": ADDRESS, "EVAC_TOKEN": self._token},
            transport=self._controllers.gate.transport(),
        )
        return await evac_command(argv, session)

    async def enrolled(self, name: str, identity: Mapping[str, Any]) -> None:
        self._nodes.enrolled(name, identity)

    def power_of(self, name: str, node: ScenarioNode) -> Mapping[str, Any] | None:
        if node.power_kind is None:
            return None
        return {
            "kind": node.power_kind.value,
            "address": bmc_address(name),
            "username": BMC_USER,
            "password": BMC_PASSWORD,
        }

    def disks_of(self, instance: str) -> Sequence[Mapping[str, Any]]:
        return ()

    def now(self) -> datetime:
        return self._clock.now()

    # -- what happens, and what really happened ------------------------------------------------

    async def act(self, action: Action) -> None:
        """Carry out a line of the time line. Raises LabFailed for what cannot be done."""
        self._desk.act(action)

    def hardware(self, name: str) -> tuple[str, str]:
        whole = self._network.whole(name, BROKER)
        return ("on" if self.machines[name].is_on() else "off", "ok" if whole else "cut")

    async def executions(self) -> Sequence[Execution]:
        entries = [entry for m in self.machines.values() for entry in m.hypervisor.core.log]
        if unknown := {entry.instance_id for entry in entries} - self._names.keys():
            await self._learn_names(unknown)
        return [
            Execution(
                instance=self._names[entry.instance_id],
                node=entry.node,
                started_s=entry.started_at,
                ended_s=entry.ended_at,
            )
            for entry in entries
        ]

    async def _learn_names(self, unknown: set[str]) -> None:
        answer = await self.api.get("/v1/instances")
        answer.raise_for_status()
        self._names |= {item["id"]: item["name"] for item in answer.json()["items"]}
        for instance_id in unknown - self._names.keys():
            self._names[instance_id] = instance_id  # executes, and the api does not know it

    @property
    def faults(self) -> list[str]:
        """Services that ended by an error of their own, which is never right."""
        return [fault for process in self.processes.values() for fault in process.faults]

    def switch_off(self) -> None:
        """The end of the world: every process is killed and every connection closed."""
        for process in self.processes.values():
            process.cut()
