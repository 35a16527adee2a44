"""The controllers of the simulated cluster: api, scheduler and monitor, one to three of each.

Every replica is a process of its own, with its own clock, bus connection and database connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry

from evac_api import service as api_service
from evac_api.settings import Settings as ApiSettings
from evac_common.bus.admin import EmbeddedAdmin
from evac_common.model.identity import API_USER, MONITOR_USER, SCHEDULER_USER
from evac_common.model.states import PowerKind
from evac_common.service.secrets import SecretBox
from evac_lab.scenario.reading import Scenario
from evac_lab.scenario.timeline import CONTROLLERS, controller_of
from evac_lab.simulated.gate import Gate
from evac_lab.simulated.kernel import Kernel
from evac_lab.simulated.process import Life, SimulatedProcess
from evac_lab.simulated.witnesses import Witnesses
from evac_monitor import service as monitor_service
from evac_monitor.ports import PowerDriver
from evac_monitor.settings import Settings as MonitorSettings
from evac_scheduler import service as scheduler_service
from evac_scheduler.settings import Settings as SchedulerSettings

_USERS: Final[Mapping[str, str]] = {
    "api": API_USER,
    "scheduler": SCHEDULER_USER,
    "monitor": MONITOR_USER,
}


class Controllers:
    """All replicas, by name (`monitor-2`)."""

    def __init__(
        self, kernel: Kernel, scenario: Scenario, *, power: PowerDriver, witnesses: Witnesses
    ) -> None:
        self._kernel = kernel
        self._scenario = scenario
        self._power = power
        self._witnesses = witnesses
        self._secrets = SecretBox([SecretBox.new_key()])
        bodies = {"api": self._api, "scheduler": self._scheduler, "monitor": self._monitor}
        self.processes: dict[str, SimulatedProcess] = {}
        for service in CONTROLLERS:
            for number in range(1, scenario.document.replicas.of(service) + 1):
                name = f"{service}-{number}"
                self.processes[name] = self._process(name, bodies[service])
        apis = [process for name, process in self.processes.items() if name.startswith("api-")]
        self.gate = Gate(kernel.loop, apis, kernel.network)

    def _process(self, name: str, body: Any) -> SimulatedProcess:
        return SimulatedProcess(
            self._kernel.loop, name, lambda life: body(name, life), kernel=self._kernel
        )

    def named(self, target: str) -> list[SimulatedProcess]:
        """`monitor`: every replica; `monitor-2`: that one. Raises KeyError for another name."""
        found = controller_of(target)
        if found is None:
            raise KeyError(target)
        service, number = found
        if number is not None:
            return [self.processes[target]]
        return [each for name, each in self.processes.items() if name.startswith(f"{service}-")]

    def _settings(self, name: str) -> dict[str, Any]:
        service = name.partition("-")[0]
        return {
            "profile": self._scenario.document.profile,
            "name": name,
            **self._scenario.settings_of(service),
        }

    def _parts(self, name: str, life: Life) -> dict[str, Any]:
        """What every controller is given."""
        service = name.partition("-")[0]
        clock = self._kernel.clock(name, life)
        return {
            "clock": clock,
            "bus": self._kernel.bus(name, _USERS[service], clock),
            "store": self._kernel.store(name, service, life),
        }

    async def _api(self, name: str, life: Life) -> None:
        settings = ApiSettings.load(**self._settings(name))
        parts = {
            **self._parts(name, life),
            "admin": EmbeddedAdmin(self._kernel.state),
            "secrets": self._secrets,
        }
        app = api_service.create_app(settings, **parts, registry=CollectorRegistry())
        self.gate.serve(name, app)
        await api_service.serve(settings, **parts, stop=life.stop, app=app, http=False)

    async def _scheduler(self, name: str, life: Life) -> None:
        settings = SchedulerSettings.load(**self._settings(name))
        await scheduler_service.serve(settings, **self._parts(name, life), stop=life.stop)

    async def _monitor(self, name: str, life: Life) -> None:
        settings = MonitorSettings.load(**self._settings(name))
        asked = self._scenario.document.witnesses
        second_channel = self._witnesses.second_channel(name) if "second_channel" in asked else None
        await monitor_service.serve(
            settings,
            **self._parts(name, life),
            stop=life.stop,
            power=dict.fromkeys(PowerKind, self._power),
            secrets=self._secrets,
            second_channel=second_channel,
            peers=self._witnesses.peers() if "peers" in asked else None,
        )
