"""What every process of the simulated cluster holds of the world: clock, bus, database.

All of it belongs to the kernel, not to the process: killed, its sockets are closed for it; stopped,
they stay open and silent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evac_common.bus.embedded import EmbeddedBus, EmbeddedState, Link
from evac_common.bus.timings import BusTimings
from evac_common.store import synchronous
from evac_common.store.engine import Store
from evac_compute.adapters.simulated.local import LocalHypervisor, SimulatedHypervisor
from evac_lab.scenario.timeline import BROKER
from evac_lab.simulated.clock import VirtualClock, Walls
from evac_lab.simulated.database import SimulatedDatabase
from evac_lab.simulated.loop import SeededLoop
from evac_lab.simulated.network import Network
from evac_lab.simulated.noise import BusNoise
from evac_lab.simulated.process import Life
from evac_lab.simulated.telling import Telling


class Kernel:
    """Opens what processes ask for, and closes it when they die. `process.Kernel` for them."""

    def __init__(
        self,
        loop: SeededLoop,
        *,
        seed: int,
        path: Path,
        timings: BusTimings,
        network: Network,
        telling: Telling,
    ) -> None:
        self.loop = loop
        self.network = network
        self.telling = telling
        self.walls = Walls()
        self.state = EmbeddedState.with_controllers()
        self.state.on_accepted = telling.published
        self.noise = BusNoise(loop.random, telling)
        self.database = SimulatedDatabase(path, loop=loop, network=network, telling=telling)
        self.url = f"sqlite:///{path}"
        self._seed = seed
        self._timings = timings
        self._links: dict[str, Link] = {}
        self._buses: dict[str, EmbeddedBus] = {}
        self._stores: dict[str, Store] = {}
        self._hypervisors: dict[str, LocalHypervisor] = {}

    # -- what a process opens --------------------------------------------------------------------

    def clock(self, name: str, life: Life | None = None) -> VirtualClock:
        number = life.number if life else 0
        return VirtualClock(self.loop, seed=self._seed, process=name, life=number, walls=self.walls)

    def bus(self, name: str, user: str, clock: VirtualClock) -> EmbeddedBus:
        bus = EmbeddedBus(
            self.state,
            user=user,
            clock=clock,
            link=self.link(endpoint_of(name)),
            timings=self._timings,
        )
        self._buses[name] = bus
        return bus

    def store(self, name: str, service: str, life: Life) -> Store:
        store = Store.open(
            self.url,
            service=service,
            clock=self.clock(f"{name}/store", life),
            connect=self.database.connector(name, endpoint_of(name)),
            instance=name,
        )
        self._stores[name] = store
        return store

    def outside_store(self) -> Store:
        """For what is done before anything runs. Its owner closes it."""
        return Store.open(
            self.url,
            service="lab",
            clock=self.clock("lab/store"),
            connect=synchronous.connect,
            instance="simulated",
        )

    def hypervisor(self, name: str, of: SimulatedHypervisor, **limits: Any) -> LocalHypervisor:
        opened = LocalHypervisor(of, **limits)
        self._hypervisors[name] = opened
        return opened

    def link(self, endpoint: str) -> Link:
        """An endpoint's way to the broker."""
        link = self._links.get(endpoint)
        if link is None:
            made = self._links[endpoint] = link = Link(
                self.noise, dead_after_s=self._timings.dead_after_s, name=endpoint
            )

            def changed() -> None:
                outward, inward = self.network.passes(endpoint, BROKER)
                made.set(outward=outward, inward=inward)

            self.network.watch(endpoint, BROKER, changed)
            changed()
        return link

    def deliver_late_messages(self) -> None:
        """The noise is over: nothing is held back any more."""
        for link in self._links.values():
            link.hurry()

    # -- what happens to a process ---------------------------------------------------------------

    def bury(self, name: str) -> None:
        if (bus := self._buses.pop(name, None)) is not None:
            bus.abort()
        self.database.died(name)
        if (store := self._stores.pop(name, None)) is not None:
            store.abandon()
        if (hypervisor := self._hypervisors.pop(name, None)) is not None:
            hypervisor.close()

    def froze(self, name: str) -> None:
        if (bus := self._buses.get(name)) is not None:
            bus.freeze()
        self.database.froze(name)

    def thawed(self, name: str) -> None:
        if (bus := self._buses.get(name)) is not None:
            bus.thaw()

    def told(self, name: str, what: str) -> None:
        self.telling.process(name, what)


def endpoint_of(process: str) -> str:
    """Where a process runs: `compute@n1` on n1, a controller's replica on a machine of its own."""
    return process.partition("@")[2] or process
