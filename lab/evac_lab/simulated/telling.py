"""The one way to the witness: every part of the world tells through it, with the true time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from evac_common.bus.port import Outgoing
from evac_compute.adapters.simulated.core import GuestRun
from evac_lab.oracle.ports import NoWitness, Witness
from evac_lab.simulated.loop import SeededLoop

#: Letters of the fault matrix.
LETTERS: Final[Mapping[str, str]] = {"api": "A", "scheduler": "S", "monitor": "M", "compute": "C"}
BUS: Final = "B"
DATABASE: Final = "D"
HYPERVISOR: Final = "V"
BMC: Final = "P"
STORAGE: Final = "N"
NETWORK: Final = "W"
NODE: Final = "C"  # its hardware, its disk, its identity


class Telling:
    def __init__(self, loop: SeededLoop, witness: Witness | None) -> None:
        self._loop = loop
        self._witness = witness or NoWitness()

    @property
    def _at_s(self) -> float:
        return self._loop.true_time

    def fault(self, component: str, kind: str) -> None:
        """Once for each fault that was really injected."""
        self._witness.fault(component, kind, self._at_s)

    def entry(self, entry: GuestRun) -> None:
        """A guest began to execute, or ended."""
        tell = self._witness.began if entry.ended_at is None else self._witness.ended
        tell(entry.node, entry.instance_id, entry.epoch, entry.run, self._at_s)

    def power(self, node: str, *, on: bool) -> None:
        tell = self._witness.booted if on else self._witness.powered_off
        tell(node, self._at_s)

    def published(self, user: str, endpoint: str, message: Outgoing) -> None:
        self._witness.published(
            user, endpoint, message.exchange, message.routing_key, message.body, self._at_s
        )

    def committed(self) -> None:
        self._witness.committed(self._at_s)

    def restored(self) -> None:
        self._witness.restored(self._at_s)

    def well(self, component: str) -> None:
        """The broker or the database works again."""
        self._witness.well(component, self._at_s)

    def reach(self, endpoint: str, peer: str, *, whole: bool) -> None:
        self._witness.reach(endpoint, peer, whole, self._at_s)

    def process(self, name: str, what: str) -> None:
        self._witness.process(name, what, self._at_s)


def letter_of(process: str) -> str:
    """`monitor-2` and `compute@n1` → M and C."""
    return LETTERS[process.partition("@")[0].partition("-")[0]]
