"""What guests do by themselves, wherever they execute."""

from __future__ import annotations

from typing import assert_never

from evac_compute.adapters.simulated.core import Guest
from evac_compute.adapters.simulated.local import SimulatedHypervisor
from evac_lab.scenario.timeline import GuestWhat
from evac_lab.simulated.nodes import Nodes


class Guests:
    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def act(self, name: str, what: GuestWhat, times: int) -> bool:
        """True: it was really done, to a guest that executes. The next starts count when met."""
        if what in {GuestWhat.REFUSE_START, GuestWhat.DIE_EARLY}:
            self._nodes.demands.add(what.value, name, times)
            return False
        executing = self._executing(name)
        for hypervisor, guest in executing:
            _do(hypervisor, guest, what)
        return bool(executing)

    def _executing(self, name: str) -> list[tuple[SimulatedHypervisor, Guest]]:
        return [
            (machine.hypervisor, guest)
            for machine in self._nodes.machines.values()
            for guest in machine.hypervisor.core.executing()
            if guest.name == name
        ]


def _do(hypervisor: SimulatedHypervisor, guest: Guest, what: GuestWhat) -> None:
    match what:
        case GuestWhat.POWEROFF | GuestWhat.CRASH | GuestWhat.PANIC:
            hypervisor.end_guest(guest.instance_id, what.value)
        case GuestWhat.HANG:
            hypervisor.ignore_power_button(guest.instance_id)  # all that anybody sees of it
        case GuestWhat.LOST:
            hypervisor.lose_guest(guest.instance_id)
        case GuestWhat.REFUSE_START | GuestWhat.DIE_EARLY:
            raise AssertionError("a demand on starts, not on a guest that executes")
        case _:
            assert_never(what)
