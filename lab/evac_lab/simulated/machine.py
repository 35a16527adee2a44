"""The hardware of a simulated node: power, boots, a disk, a hypervisor, a BMC.

Killing the daemon touches none of it. Cutting the power ends the daemon and every guest; the disk
(the daemon's journal) stays, the hypervisor comes back empty, and the next boot has another boot
id.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import Callable
from typing import Final

from evac_compute.adapters.memory_journal import MemoryJournal
from evac_compute.adapters.simulated.local import SimulatedHypervisor
from evac_compute.ports import Identity
from evac_lab.runner import LabFailed
from evac_lab.simulated.process import SimulatedProcess

SHUTDOWN_LIMIT_S: Final = 90.0  # systemd's own patience with a service


class Machine:
    """One node's hardware, switched off at first. `daemon` is set once the node is enrolled.

    `on_power` is told of every change, after the fact.
    """

    def __init__(
        self, name: str, hypervisor: SimulatedHypervisor, *, on_power: Callable[[bool], None]
    ) -> None:
        self.name = name
        self.node_id = ""
        self.journal = MemoryJournal()
        self.hypervisor = hypervisor
        self.daemon: SimulatedProcess | None = None
        self.poses_as: Machine | None = None  # whose identity the next boot's daemon uses
        self._posing: Machine | None = None
        self._on_power = on_power
        self._saved: MemoryJournal | None = None
        self._on = False
        self._boots = 0

    @property
    def dmi_uuid(self) -> str:
        return str(uuid.UUID(bytes=hashlib.blake2b(self.name.encode(), digest_size=16).digest()))

    def identity(self) -> Identity:
        """Of the daemon: what its node.toml says, on this very hardware in its present boot."""
        boot = uuid.uuid5(uuid.UUID(self.dmi_uuid), f"boot {self._boots}")
        enrolled = self._posing or self
        return Identity(
            node_id=enrolled.node_id,
            name=enrolled.name,
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
            self._posing = self.poses_as
            self.hypervisor.boot()
            self._on_power(True)
            if self.daemon is not None:
                self.daemon.start()

    async def shut_down(self) -> None:
        """In good order: the daemon releases its guests, then the power is off.

        What is not done after SHUTDOWN_LIMIT_S is not waited for; a boot meanwhile ends it.
        """
        boot = self._boots
        if self._on and self.daemon is not None:
            self.daemon.leave()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHUTDOWN_LIMIT_S):
                    await self.daemon.death()
        if boot == self._boots:
            self.power_off()

    def power_off(self) -> None:
        """Cut the power: the daemon and every guest are gone when this returns."""
        if self._on:
            self._on = False
            if self.daemon is not None:
                self.daemon.cut()
            self.hypervisor.power_cut()
            self._on_power(False)

    def save_disk(self) -> None:
        """Remember what is on the node's own disk."""
        self._saved = self.journal.copy()

    def restore_disk(self) -> None:
        """Put it back. Raises LabFailed while the node is on, or when nothing was saved."""
        if self._on:
            raise LabFailed(f"disk {self.name} restore: the node is on")
        if self._saved is None:
            raise LabFailed(f"disk {self.name} restore: nothing was saved before")
        self.journal = self._saved.copy()
