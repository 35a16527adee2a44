"""The nodes of the simulated cluster: their hardware, their BMCs, and the daemons on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from evac_common.model.identity import node_user
from evac_compute import service as compute_service
from evac_compute.adapters.simulated.core import HypervisorCore
from evac_compute.adapters.simulated.demands import GuestDemands
from evac_compute.adapters.simulated.local import SimulatedHypervisor
from evac_compute.settings import Settings as ComputeSettings
from evac_lab.scenario.document import ScenarioNode
from evac_lab.scenario.reading import Scenario
from evac_lab.scenario.timeline import COMPUTE
from evac_lab.simulated import telling as letters
from evac_lab.simulated.kernel import Kernel
from evac_lab.simulated.machine import Machine
from evac_lab.simulated.process import Life, SimulatedProcess
from evac_monitor.adapters.power_simulated import Fault, SimulatedBmc

BMC_USER: Final = "admin"
BMC_PASSWORD: Final = "simulated"
START_S: Final = 1.0  # of a guest


class Nodes:
    """All machines and BMCs, by node name."""

    def __init__(self, kernel: Kernel, scenario: Scenario) -> None:
        self._kernel = kernel
        self._scenario = scenario
        self.demands = GuestDemands(lambda kind: kernel.telling.fault(letters.HYPERVISOR, kind))
        self.machines = {
            name: self._machine(name, node) for name, node in scenario.document.nodes.items()
        }
        self.bmcs = {name: self._bmc(machine) for name, machine in self.machines.items()}

    def _machine(self, name: str, node: ScenarioNode) -> Machine:
        loop, telling = self._kernel.loop, self._kernel.telling
        core = HypervisorCore(
            node=name,
            vcpus=node.vcpus,
            memory_mib=node.memory_mib,
            overcommit=16.0,
            on_entry=telling.entry,
        )
        hypervisor = SimulatedHypervisor(
            core, start_delay_s=START_S, clock=lambda: loop.true_time, demands=self.demands
        )
        hypervisor.powered = False
        return Machine(name, hypervisor, on_power=lambda on: telling.power(name, on=on))

    def _bmc(self, machine: Machine) -> SimulatedBmc:
        return SimulatedBmc(
            machine=machine,
            address=bmc_address(machine.name),
            username=BMC_USER,
            password=BMC_PASSWORD,
            system_uuid=machine.dmi_uuid,
            fault=Fault.NONE,
        )

    def bmc_at(self, address: str) -> SimulatedBmc | None:
        return next((bmc for bmc in self.bmcs.values() if bmc.address == address), None)

    def enrolled(self, name: str, identity: Mapping[str, Any]) -> None:
        """The node has its node.toml: its daemon starts with the machine from now on."""
        machine = self.machines[name]
        machine.node_id = str(identity["node_id"])
        process = f"{COMPUTE}@{name}"
        machine.daemon = SimulatedProcess(
            self._kernel.loop, process, lambda life: self._run(machine, life), kernel=self._kernel
        )

    def daemon(self, name: str) -> SimulatedProcess:
        process = self.machines[name].daemon
        assert process is not None, "every enrolled node has a daemon"
        return process

    @property
    def daemons(self) -> list[SimulatedProcess]:
        return [m.daemon for m in self.machines.values() if m.daemon is not None]

    async def _run(self, machine: Machine, life: Life) -> None:
        name = f"{COMPUTE}@{machine.name}"
        given: dict[str, Any] = dict(self._scenario.settings_of(COMPUTE))
        settings = ComputeSettings.load(profile=self._scenario.document.profile, **given)
        clock = self._kernel.clock(name, life)
        identity = machine.identity()
        await compute_service.serve(
            settings,
            clock=clock,
            bus=self._kernel.bus(name, node_user(identity.node_id), clock),
            hypervisor=self._kernel.hypervisor(
                name,
                machine.hypervisor,
                call_time_limit_s=settings.call_time_limit_s,
                start_time_limit_s=settings.start_time_limit_s,
            ),
            journal=machine.journal,
            identity=identity,
            stop=life.stop,
            leaving=life.leaving,
        )


def bmc_address(node: str) -> str:
    return f"bmc-{node}"
