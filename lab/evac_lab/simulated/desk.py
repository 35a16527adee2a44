"""The fault desk: carries out what a time line says, on the parts of the simulated cluster.

Each fault that is really injected is told to the witness once; what ends a fault is not one.
"""

from __future__ import annotations

import asyncio
import contextvars
from functools import partial
from typing import Final, assert_never

from evac_common.bus.embedded import EmbeddedBroker
from evac_lab.runner import LabFailed
from evac_lab.scenario import timeline as line
from evac_lab.simulated import telling as letters
from evac_lab.simulated.controllers import Controllers
from evac_lab.simulated.guests import Guests
from evac_lab.simulated.kernel import Kernel
from evac_lab.simulated.machine import Machine
from evac_lab.simulated.nodes import Nodes
from evac_lab.simulated.process import SimulatedProcess
from evac_monitor.adapters.power_simulated import Fault

LIBVIRT_BACK_S: Final = 5.0  # after it was killed
SLOW_LIBVIRT_S: Final = 300.0  # longer takes a start
SLOW_STORAGE_S: Final = 10.0
_LIBVIRT, _STORAGE = "libvirt", "storage"  # why a start is slow

_BMC_FAULTS: Final = {
    line.BmcState.ON: Fault.NONE,
    line.BmcState.OFF: Fault.UNREACHABLE,
    line.BmcState.SLOW: Fault.SLOW,
    line.BmcState.LIES: Fault.LIES,
    line.BmcState.WRONG: Fault.NONE,
}


class Desk:
    def __init__(self, kernel: Kernel, controllers: Controllers, nodes: Nodes) -> None:
        self._kernel = kernel
        self._controllers = controllers
        self._nodes = nodes
        self._guests = Guests(nodes)
        self._fault = kernel.telling.fault
        self.broker = EmbeddedBroker(kernel.state)
        self._tasks: list[asyncio.Task[None]] = []  # shutdowns under way
        self._storage_off: dict[str, None] = {}
        for name in nodes.machines:
            kernel.network.watch(name, line.STORAGE, partial(self._reach_storage, name))

    def act(self, action: line.Action) -> None:
        """Raises LabFailed for what cannot be done as things stand."""
        match action:
            case line.Kill() | line.Stop() | line.Start() | line.Hang() | line.Resume():
                self._service(action)
            case line.Power() | line.Orderly() | line.Disk() | line.Identity():
                self._hardware(action)
            case line.Bmc() | line.Storage() | line.Libvirt() | line.GuestAct():
                self._around(action)
            case line.Network() | line.Broker() | line.Database() | line.BusNoise():
                self._shared(action)
            case line.ClockJump() | line.ClockRate():
                self._clock(action)
            case line.Command() | line.End():
                raise LabFailed(f"nothing that happens to a cluster: {action}")
            case _:
                assert_never(action)

    def _around(self, action: line.Bmc | line.Storage | line.Libvirt | line.GuestAct) -> None:
        """What a node leans on, and what runs on it."""
        match action:
            case line.Bmc(node=node, state=state):
                self._bmc(node, state)
            case line.Storage(node=node, state=state):
                self._storage(node, state)
            case line.Libvirt(node=node, state=state):
                self._libvirt(node, state)
            case line.GuestAct(instance=instance, what=what, times=times):
                if self._guests.act(instance, what, times):
                    self._fault(letters.HYPERVISOR, what.value)

    def _shared(self, action: line.Network | line.Broker | line.Database | line.BusNoise) -> None:
        match action:
            case line.Network():
                self._network(action)
            case line.Broker(state=state):
                self._broker(state)
            case line.Database(state=state, times=times):
                self._database(state, times)
            case line.BusNoise(kind=kind, percent=percent):
                self._kernel.noise.set(kind, percent)
                if kind is line.Noise.CALM:
                    self._kernel.deliver_late_messages()

    # -- services --------------------------------------------------------------------------------

    def _processes(self, service: str, node: str | None) -> list[SimulatedProcess]:
        return [self._nodes.daemon(node)] if node else self._controllers.named(service)

    def _service(self, action: line.ServiceAct) -> None:
        for process in self._processes(action.service, action.node):
            letter = letters.letter_of(process.name)
            match action:
                case line.Kill():
                    if process.running:
                        self._fault(letter, "kill")
                    process.kill()
                case line.Stop():
                    if process.running:
                        self._fault(letter, "stop")
                    process.stop()
                case line.Start():
                    # Without power there is no service manager: the boot starts the daemon.
                    if action.node is None or self._nodes.machines[action.node].is_on():
                        process.start()
                case line.Hang():
                    if process.running and not process.hung:
                        self._fault(letter, "hang")
                    process.hang()
                case line.Resume():
                    process.resume()

    # -- hardware --------------------------------------------------------------------------------

    def _hardware(self, action: line.Power | line.Orderly | line.Disk | line.Identity) -> None:
        machine = self._nodes.machines[action.node]
        match action:
            case line.Power(on=True):
                machine.power_on()
            case line.Power():
                if machine.is_on():
                    self._fault(letters.NODE, "power")
                machine.power_off()
            case line.Orderly(back=back):
                if machine.is_on():
                    self._fault(letters.NODE, "reboot" if back else "shutdown")
                    self._tasks.append(
                        asyncio.create_task(
                            _shut_down(machine, back=back), name=f"shutdown of {machine.name}"
                        )
                    )
            case line.Disk(what=line.DiskAct.SAVE):
                machine.save_disk()
            case line.Disk():
                machine.restore_disk()
                self._fault(letters.NODE, "restore")
            case line.Identity(of=None):
                machine.poses_as = None
            case line.Identity(of=of):
                assert of is not None, "the case above"
                machine.poses_as = self._nodes.machines[of]
                self._fault(letters.NODE, "identity")

    def _bmc(self, node: str, state: line.BmcState) -> None:
        bmc, machine = self._nodes.bmcs[node], self._nodes.machines[node]
        bmc.fault = _BMC_FAULTS[state]
        bmc.machine, bmc.system_uuid = machine, machine.dmi_uuid
        if state is line.BmcState.WRONG:
            names = list(self._nodes.machines)
            other = self._nodes.machines[names[(names.index(node) + 1) % len(names)]]
            if other is machine:
                raise LabFailed(f"bmc {node} wrong: there is no other machine that it could be of")
            bmc.machine, bmc.system_uuid = other, other.dmi_uuid
        if state is not line.BmcState.ON:
            self._fault(letters.BMC, state.value)

    def _storage(self, node: str, state: line.StorageState) -> None:
        hypervisor = self._nodes.machines[node].hypervisor
        hypervisor.locks_left = state is line.StorageState.LOCKED
        hypervisor.slower_by_s.pop(_STORAGE, None)
        self._storage_off.pop(node, None)
        match state:
            case line.StorageState.OFF:
                self._storage_off[node] = None
            case line.StorageState.SLOW:
                hypervisor.slower_by_s[_STORAGE] = SLOW_STORAGE_S
            case line.StorageState.ON | line.StorageState.LOCKED:
                pass
            case _:
                assert_never(state)
        self._reach_storage(node)
        if state is not line.StorageState.ON:
            self._fault(letters.STORAGE, state.value)

    def _reach_storage(self, node: str) -> None:
        """The node's I/O hangs while its storage is off, or its way to it is cut either way."""
        hypervisor = self._nodes.machines[node].hypervisor
        if node not in self._storage_off and self._kernel.network.whole(node, line.STORAGE):
            hypervisor.heal_storage()
        else:
            hypervisor.hang_storage()

    def _libvirt(self, node: str, state: line.LibvirtState) -> None:
        machine = self._nodes.machines[node]
        hypervisor = machine.hypervisor
        if state is line.LibvirtState.RESUME:
            hypervisor.slower_by_s.pop(_LIBVIRT, None)
            hypervisor.resume()
            if hypervisor.unreachable:
                hypervisor.come_back()
            return
        if not machine.is_on():
            return  # there is nothing that could fail
        match state:
            case line.LibvirtState.HANG:
                hypervisor.hang()
            case line.LibvirtState.SLOW:
                hypervisor.slower_by_s[_LIBVIRT] = SLOW_LIBVIRT_S
            case line.LibvirtState.KILL:
                hypervisor.go_away("libvirtd was killed")
                asyncio.get_running_loop().call_later(
                    LIBVIRT_BACK_S, hypervisor.come_back, context=contextvars.Context()
                )
            case _:
                assert_never(state)
        self._fault(letters.HYPERVISOR, state.value)

    # -- what everybody shares -------------------------------------------------------------------

    def _network(self, action: line.Network) -> None:
        network = self._kernel.network
        endpoints = (
            [action.endpoint]
            if action.endpoint in self._nodes.machines
            else [process.name for process in self._controllers.named(action.endpoint)]
        )
        for endpoint in endpoints:
            if action.on:
                network.heal(endpoint, action.peer, action.direction)
            else:
                network.cut(endpoint, action.peer, action.direction)
                one_way = action.direction is not line.Direction.BOTH
                self._fault(letters.NETWORK, action.direction.value if one_way else "off")
            for peer in (line.BROKER, line.DATABASE):
                self._kernel.telling.reach(endpoint, peer, whole=network.whole(endpoint, peer))

    def _broker(self, state: line.BrokerState) -> None:
        match state:
            case line.BrokerState.ON:
                if not self.broker.alive:
                    self.broker = EmbeddedBroker(self._kernel.state)
                elif self.broker.alarmed:
                    self.broker.alarm(False)
                self._kernel.telling.well(letters.BUS)
                return
            case line.BrokerState.OFF:
                if not self.broker.alive:
                    return
                self.broker.stop()
            case line.BrokerState.ALARM:
                if not self.broker.alive or self.broker.alarmed:
                    return
                self.broker.alarm(True)
            case _:
                assert_never(state)
        self._fault(letters.BUS, state.value)

    def _database(self, state: line.DatabaseState, times: int) -> None:
        try:
            self._kernel.database.turn(state, times)
        except RuntimeError as error:
            raise LabFailed(str(error)) from error

    def _clock(self, action: line.ClockJump | line.ClockRate) -> None:
        if action.target in self._nodes.machines:
            processes = [self._nodes.daemon(action.target)]
        else:
            processes = self._controllers.named(action.target)
        for process in processes:
            letter = letters.letter_of(process.name)
            match action:
                case line.ClockJump(seconds=seconds):
                    self._kernel.walls.jump(process.name, seconds)
                    self._fault(letter, "jump")
                case line.ClockRate(percent=percent):
                    self._kernel.loop.set_rate(process.name, 1.0 + percent / 100)
                    if percent:
                        self._fault(letter, "rate")


async def _shut_down(machine: Machine, *, back: bool) -> None:
    await machine.shut_down()
    if back:
        await asyncio.sleep(line.REBOOT_S)
        machine.power_on()
