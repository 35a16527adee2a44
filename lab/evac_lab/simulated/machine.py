"""The hardware of a simulated node: power, boots, a disk, a hypervisor, a network link.

Killing the daemon touches none of it. Cutting the power ends the daemon and every guest; the disk
(the daemon's journal) stays, the hypervisor comes back empty, and the next boot has another boot
id.
"""

from __future__ import annotations

import hashlib
import uuid

from evac_common.bus.embedded import Link
from evac_compute.adapters.memory_journal import MemoryJournal
from evac_compute.adapters.simulated.local import SimulatedHypervisor
from evac_compute.ports import Identity
from evac_lab.simulated.process import SimulatedProcess


class Machine:
    """One node's hardware, switched off at first. `daemon` is set once the node is enrolled."""

    def __init__(self, name: str, hypervisor: SimulatedHypervisor) -> None:
        self.name = name
        self.node_id = ""
        self.link = Link()
        self.journal = MemoryJournal()
        self.hypervisor = hypervisor
        self.daemon: SimulatedProcess | None = None
        self._on = False
        self._boots = 0

    @property
    def dmi_uuid(self) -> str:
        return str(uuid.UUID(bytes=hashlib.blake2b(self.name.encode(), digest_size=16).digest()))

    def identity(self) -> Identity:
        boot = uuid.uuid5(uuid.UUID(self.dmi_uuid), f"boot {self._boots}")
        return Identity(
            node_id=self.node_id,
            name=self.name,
            boot_id=str(boot),
            dmi_uuid=self.dmi_uuid,
            hostname=self.name,
        )

    def is_on(self) -> bool:
        return self._on

    def power_on(self) -> None:
        if not self._on:
            self._on = True
            self._boots += 1
            self.hypervisor.boot()
            if self.daemon is not None:
                self.daemon.start()

    def power_off(self) -> None:
        """Cut the power: the daemon and every guest are gone when this returns."""
        if self._on:
            self._on = False
            if self.daemon is not None:
                self.daemon.stop()
            self.hypervisor.power_cut()
