"""A whole cluster in one process: the services' real code, simulated hardware, virtual time.

Every service is a process of its own, with its own bus connection, database connection and clock;
it can be killed at any await. What must survive a kill (broker's disk, database file, machines)
lives here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx2
from prometheus_client import CollectorRegistry

from evac_api import service as api_service
from evac_api.adapters.access import StoredTokens
from evac_api.settings import Settings as ApiSettings
from evac_common.bus.admin import EmbeddedAdmin
from evac_common.bus.embedded import EmbeddedBroker, EmbeddedBus, EmbeddedState
from evac_common.bus.timings import BusTimings
from evac_common.cli.main import run as evac_command
from evac_common.cli.output import Output
from evac_common.cli.session import Session
from evac_common.model.identity import API_USER, MONITOR_USER, SCHEDULER_USER, node_user
from evac_common.model.states import PowerKind
from evac_common.service.secrets import SecretBox
from evac_common.store import synchronous
from evac_common.store.engine import Store
from evac_common.store.migrations import migrate
from evac_compute import service as compute_service
from evac_compute.adapters.simulated.core import HypervisorCore
from evac_compute.adapters.simulated.local import LocalHypervisor, SimulatedHypervisor
from evac_compute.settings import Settings as ComputeSettings
from evac_lab.judge import Execution
from evac_lab.runner import LabFailed
from evac_lab.scenario.document import ScenarioNode
from evac_lab.scenario.reading import Scenario
from evac_lab.scenario.timeline import Action, Direction, Kill, Network, Power
from evac_lab.simulated.clock import VirtualClock
from evac_lab.simulated.gate import ADDRESS, Gate
from evac_lab.simulated.loop import SeededLoop
from evac_lab.simulated.machine import Machine
from evac_lab.simulated.process import SimulatedProcess
from evac_monitor import service as monitor_service
from evac_monitor.adapters.power_simulated import Fault, SimulatedBmc, SimulatedPower
from evac_monitor.ports import PowerDriver
from evac_monitor.settings import Settings as MonitorSettings
from evac_scheduler import service as scheduler_service
from evac_scheduler.settings import Settings as SchedulerSettings

BMC_PASSWORD: Final = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubles:
    """What a test may put in place of the simulated world's parts."""

    power: PowerDriver | None = None


class SimulatedCluster:
    """The cluster of one scenario; `runner.Cluster` for the runner."""

    def __init__(
        self, loop: SeededLoop, scenario: Scenario, *, seed: int, directory: Path, doubles: Doubles
    ) -> None:
        self._loop = loop
        self._scenario = scenario
        self._seed = seed
        self._profile = scenario.document.profile
        self._url = f"sqlite:///{directory / 'evac.sqlite'}"
        self._state = EmbeddedState.with_controllers()
        self._broker = EmbeddedBroker(self._state)
        self._timings = BusTimings(backoff_max_s=1.0 if self._profile == "fast" else 15.0)
        self._secrets = SecretBox([SecretBox.new_key()])
        self._stores: dict[str, Store] = {}
        self._buses: dict[str, EmbeddedBus] = {}
        self.machines = {
            name: self._machine(name, node) for name, node in scenario.document.nodes.items()
        }
        self._bmcs = {
            _bmc_address(name): SimulatedBmc(
                machine=machine,
                address=_bmc_address(name),
                password=BMC_PASSWORD,
                system_uuid=machine.dmi_uuid,
                fault=Fault.NONE,
            )
            for name, machine in self.machines.items()
        }
        self._power = doubles.power or SimulatedPower(self._bmcs.get)
        self._names: dict[str, str] = {}  # instance id → name
        self.services = {
            "api": self._process("api", self._run_api),
            "scheduler": self._process("scheduler", self._run_scheduler),
            "monitor": self._process("monitor", self._run_monitor),
        }
        self._gate = Gate(loop, self.services["api"])
        self._client: httpx2.AsyncClient | None = None
        self._token = ""

    # -- bringing it up ------------------------------------------------------------------------

    async def start(self) -> None:
        """Create the database, the first token, and start the three controllers."""
        migrate(self._url)
        store = self._open_store("lab", "lab")
        token = await StoredTokens(store).issue("lab")
        await store.close()
        self._token, self._client = token, self._gate.client(token)
        for process in self.services.values():
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
            transport=self._gate.transport(),
        )
        return await evac_command(argv, session)

    async def enrolled(self, name: str, identity: Mapping[str, Any]) -> None:
        machine = self.machines[name]
        machine.node_id = str(identity["node_id"])
        machine.daemon = self._process(
            f"compute@{name}", lambda life: self._run_compute(machine, life)
        )

    def power_of(self, name: str, node: ScenarioNode) -> Mapping[str, Any] | None:
        if node.power is None:
            return None
        return {
            "kind": PowerKind.IPMI.value,
            "address": _bmc_address(name),
            "username": "admin",
            "password": BMC_PASSWORD,
        }

    def disks_of(self, instance: str) -> Sequence[Mapping[str, Any]]:
        return ()

    def now(self) -> datetime:
        return self._clock("lab", 0).now()

    # -- what the time line does ---------------------------------------------------------------

    async def act(self, action: Action) -> None:
        """Raises LabFailed for what this world does not do yet."""
        match action:
            case Power(node=node, on=on):
                await self.power(node, on=on)
            case Network(endpoint=node, on=on, peer=None, direction=Direction.BOTH):
                await self.network(node, on=on)
            case Kill(service=service, node=owner):
                await self.kill(service, owner)
            case _:
                raise LabFailed(f"the simulated cluster does not do this yet: {action}")

    async def power(self, name: str, *, on: bool) -> None:
        machine = self.machines[name]
        machine.power_on() if on else machine.power_off()

    async def network(self, name: str, *, on: bool) -> None:
        link = self.machines[name].link
        link.heal() if on else link.cut()

    async def kill(self, service: str, node: str | None) -> None:
        process = self.machines[node].daemon if node else self.services[service]
        assert process is not None, "every enrolled node has a daemon"
        process.kill()

    # -- what really happened ------------------------------------------------------------------

    def hardware(self, name: str) -> tuple[str, str]:
        machine = self.machines[name]
        return ("on" if machine.is_on() else "off", "ok" if machine.link.up else "cut")

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
        daemons = [m.daemon for m in self.machines.values() if m.daemon is not None]
        return [
            fault for process in (*self.services.values(), *daemons) for fault in process.faults
        ]

    # -- the processes -------------------------------------------------------------------------

    def _process(self, name: str, body: Any) -> SimulatedProcess:
        return SimulatedProcess(self._loop, name, body, on_death=lambda life: self._bury(name))

    def switch_off(self) -> None:
        """The end of the world: every process is killed and every connection closed."""
        daemons = [m.daemon for m in self.machines.values() if m.daemon is not None]
        for process in (*self.services.values(), *daemons):
            process.stop()

    def _bury(self, name: str) -> None:
        """What the kernel does for a killed process: its connections are closed."""
        if (bus := self._buses.pop(name, None)) is not None:
            bus.abort()
        if (store := self._stores.pop(name, None)) is not None:
            store.abandon()
        if name == "api":
            self._gate.app = None

    def _machine(self, name: str, node: ScenarioNode) -> Machine:
        core = HypervisorCore(
            node=name, vcpus=node.vcpus, memory_mib=node.memory_mib, overcommit=16.0
        )
        hypervisor = SimulatedHypervisor(core, start_delay_s=1.0)
        hypervisor.powered = False
        return Machine(name, hypervisor)

    def _clock(self, name: str, life: int) -> VirtualClock:
        return VirtualClock(self._loop, seed=self._seed, process=f"{name}#{life}")

    def _open_store(self, name: str, service: str, life: int = 0) -> Store:
        store = Store.open(
            self._url,
            service=service,
            clock=self._clock(f"{name}/store", life),
            connect=synchronous.connect,
            instance="simulated",
        )
        self._stores[name] = store
        return store

    def _open_bus(self, name: str, user: str, clock: VirtualClock, **options: Any) -> EmbeddedBus:
        bus = EmbeddedBus(self._state, user=user, clock=clock, timings=self._timings, **options)
        self._buses[name] = bus
        return bus

    def _settings(self, service: str) -> dict[str, Any]:
        return {
            "profile": self._profile,
            "name": f"{service}-1",
            **self._scenario.settings_of(service),
        }

    async def _run_api(self, life: int) -> None:
        settings = ApiSettings.load(**self._settings("api"))
        clock = self._clock("api", life)
        bus = self._open_bus("api", API_USER, clock)
        store = self._open_store("api", "api", life)
        parts: dict[str, Any] = {
            "clock": clock,
            "bus": bus,
            "store": store,
            "admin": EmbeddedAdmin(self._state),
            "secrets": self._secrets,
        }
        app = api_service.create_app(settings, **parts, registry=CollectorRegistry())
        self._gate.app = app
        await api_service.serve(settings, **parts, stop=asyncio.Event(), app=app, http=False)

    async def _run_scheduler(self, life: int) -> None:
        settings = SchedulerSettings.load(**self._settings("scheduler"))
        clock = self._clock("scheduler", life)
        await scheduler_service.serve(
            settings,
            clock=clock,
            bus=self._open_bus("scheduler", SCHEDULER_USER, clock),
            store=self._open_store("scheduler", "scheduler", life),
            stop=asyncio.Event(),
        )

    async def _run_monitor(self, life: int) -> None:
        settings = MonitorSettings.load(**self._settings("monitor"))
        clock = self._clock("monitor", life)
        await monitor_service.serve(
            settings,
            clock=clock,
            bus=self._open_bus("monitor", MONITOR_USER, clock),
            store=self._open_store("monitor", "monitor", life),
            stop=asyncio.Event(),
            power={PowerKind.IPMI: self._power},
            secrets=self._secrets,
        )

    async def _run_compute(self, machine: Machine, life: int) -> None:
        name = f"compute@{machine.name}"
        settings = ComputeSettings.load(**self._settings("compute"))
        clock = self._clock(name, life)
        bus = self._open_bus(name, node_user(machine.node_id), clock, link=machine.link)
        await compute_service.serve(
            settings,
            clock=clock,
            bus=bus,
            hypervisor=LocalHypervisor(machine.hypervisor),
            journal=machine.journal,
            identity=machine.identity(),
            stop=asyncio.Event(),
        )


def _bmc_address(node: str) -> str:
    return f"bmc-{node}"
