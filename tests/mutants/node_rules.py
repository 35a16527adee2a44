"""Rules of the node: what its daemon obeys, what it remembers, what its hypervisor starts."""

from __future__ import annotations

import asyncio

from evac_common.messages.commands import Command
from evac_compute.adapters.simulated.core import Guest
from evac_compute.adapters.simulated.local import SimulatedHypervisor
from evac_compute.core import checks, record
from evac_compute.sessions import Sessions
from tests.mutants.patching import Patching

AUTOSTART_S = 0.5  # after the hypervisor is up


def any_session(patching: Patching) -> None:
    """A command is obeyed in whatever session, or none, the node is in when it arrives."""
    original = checks.session

    def session(command: Command, present: checks.InSession | None) -> checks.Refuse | None:
        if original(command, present) is not None:
            patching.bite("obeyed in another session")
        return None

    patching.function(checks, "session", session)


def no_tombstone(patching: Patching) -> None:
    """A node releases an epoch, says so, and remembers nothing of it."""

    def _release(self: record.Recorded, change: record.Released) -> None:
        patching.bite("release forgotten")
        ran = self.runs.get(change.instance_id)
        if ran is not None and ran.epoch <= change.epoch:
            del self.runs[change.instance_id]

    async def _end(self: Sessions, instance_id: str) -> None:
        # A session's contract is still carried out: only the memory of it is gone.
        domain = await self._hypervisor.find(instance_id)
        if domain is not None:
            await self._hypervisor.destroy(instance_id, epoch=domain.epoch)

    patching.function(record.Recorded, "_release", _release)
    patching.function(Sessions, "_end", _end)


def autostart(patching: Patching) -> None:
    """Domains are persistent, and the hypervisor starts at boot what ran before."""
    cut, boot = SimulatedHypervisor.power_cut, SimulatedHypervisor.boot
    before: dict[str, list[Guest]] = {}

    def power_cut(self: SimulatedHypervisor) -> None:
        before[self.core.node] = self.core.executing()
        cut(self)

    def restore(hypervisor: SimulatedHypervisor, number: int, guests: list[Guest]) -> None:
        if hypervisor._boots != number:
            return
        for guest in guests:
            if guest.instance_id in hypervisor.core.guests:
                continue
            patching.bite("started at boot")
            hypervisor.core.guests[guest.instance_id] = Guest(
                instance_id=guest.instance_id,
                name=guest.name,
                epoch=guest.epoch,
                run=guest.run,
                vcpus=guest.vcpus,
                memory_mib=guest.memory_mib,
            )
            hypervisor.core.resume(hypervisor.now(), guest.instance_id)

    def boot_(self: SimulatedHypervisor) -> None:
        boot(self)
        guests = before.pop(self.core.node, [])
        asyncio.get_running_loop().call_later(
            AUTOSTART_S, restore, self, self._boots, guests, context=self._context
        )

    patching.function(SimulatedHypervisor, "power_cut", power_cut)
    patching.function(SimulatedHypervisor, "boot", boot_)
