"""The state of one simulated hypervisor, and the log of what it ran. Pure: times are arguments.

A domain is built first (it exists and does not execute) and executes after `resume`; only then
does the log get an entry. That is what the real driver does as well, so a start whose caller gave
up leaves at worst a domain that never touched its disks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from evac_common.messages.commands import InstanceSpec
from evac_common.messages.reports import StartErrorKind
from evac_common.model.states import ExitReason


@dataclass(slots=True, kw_only=True)
class GuestRun:
    """One entry of the log: this instance executed here from `started_at` to `ended_at`.

    Times are seconds of the clock that the hypervisor was given. `ended_at` None: it still
    executes.
    """

    node: str
    instance_id: str
    epoch: int
    run: int
    started_at: float
    ended_at: float | None = None
    why: str = ""


@dataclass(slots=True, kw_only=True)
class Guest:
    """A domain. `entry` None: built, never executed."""

    instance_id: str
    name: str
    epoch: int
    run: int
    vcpus: int
    memory_mib: int
    paused: bool = True
    obeys_power_button: bool = True
    entry: GuestRun | None = None


class Refused(Exception):
    """The hypervisor refuses to build this domain."""

    def __init__(self, kind: StartErrorKind, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


@dataclass(slots=True, kw_only=True)
class HypervisorCore:
    """`bridges` None: every bridge exists. `on_entry` is told of every entry begun and ended."""

    node: str
    vcpus: int
    memory_mib: int
    bridges: tuple[str, ...] | None = None
    overcommit: float = 1.0  # of CPUs; memory is never overcommitted
    guests: dict[str, Guest] = field(default_factory=dict)
    log: list[GuestRun] = field(default_factory=list)
    on_entry: Callable[[GuestRun], None] | None = None

    def build(self, spec: InstanceSpec, *, instance_id: str, epoch: int, run: int) -> Guest:
        """Add a domain that does not execute yet. Raises Refused."""
        if instance_id in self.guests:
            raise Refused(StartErrorKind.HYPERVISOR, f"domain {instance_id} already exists")
        if any(guest.name == spec.name for guest in self.guests.values()):
            raise Refused(StartErrorKind.HYPERVISOR, f"domain name {spec.name!r} is taken")
        free_mib = self.memory_mib - sum(guest.memory_mib for guest in self.guests.values())
        if spec.memory_mib > free_mib:
            why = f"{spec.memory_mib} MiB wanted, {free_mib} MiB free"
            raise Refused(StartErrorKind.CAPACITY, why)
        if spec.vcpus > self.vcpus * self.overcommit:
            why = f"{spec.vcpus} vCPUs wanted, the node has {self.vcpus}"
            raise Refused(StartErrorKind.CAPACITY, why)
        missing = [nic.bridge for nic in spec.nics if not self._has_bridge(nic.bridge)]
        if missing:
            raise Refused(StartErrorKind.NETWORK, f"bridge {missing[0]!r} does not exist")
        guest = Guest(
            instance_id=instance_id,
            name=spec.name,
            epoch=epoch,
            run=run,
            vcpus=spec.vcpus,
            memory_mib=spec.memory_mib,
        )
        self.guests[instance_id] = guest
        return guest

    def _has_bridge(self, bridge: str) -> bool:
        return self.bridges is None or bridge in self.bridges

    def resume(self, now: float, instance_id: str) -> None:
        """Let a built or paused domain execute."""
        guest = self.guests[instance_id]
        guest.paused = False
        if guest.entry is None:
            guest.entry = GuestRun(
                node=self.node,
                instance_id=instance_id,
                epoch=guest.epoch,
                run=guest.run,
                started_at=now,
            )
            self.log.append(guest.entry)
            self._tell(guest.entry)

    def end(self, now: float, instance_id: str, why: str) -> Guest | None:
        """Remove a domain. None: there is none."""
        guest = self.guests.pop(instance_id, None)
        if guest is not None and guest.entry is not None:
            guest.entry.ended_at, guest.entry.why = now, why
            self._tell(guest.entry)
        return guest

    def power_cut(self, now: float) -> None:
        """Everything ends at once."""
        for instance_id in list(self.guests):
            self.end(now, instance_id, "power cut")

    def executing(self) -> list[Guest]:
        return [guest for guest in self.guests.values() if not guest.paused]

    def _tell(self, entry: GuestRun) -> None:
        if self.on_entry is not None:
            self.on_entry(entry)


#: How a guest may end by itself, on demand of a scenario.
GUEST_ENDS: dict[str, ExitReason] = {
    "poweroff": ExitReason.SHUTDOWN,
    "crash": ExitReason.CRASHED,
    "panic": ExitReason.PANICKED,
}
