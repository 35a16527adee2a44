"""What guests' disks show while a cluster lives: who ran when, by the records that guests write.

No hypervisor and no service is asked. A guest writes a record every 0.22 s and every disk is looked
at every 0.05 s, on the lab's clock: an interval begins up to 0.05 s late (and at the guest's first
record, not at its power-on) and ends with the last record, up to 0.3 s before the guest really did.
So a downtime read here is never too short, and at most 0.35 s too long on an idle machine.

The node comes from the guests, too: each says its incarnation's nonce on its serial port, and the
log of that port is on the disk of the host that the guest runs on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from evac_lab.judge import Execution
from evac_lab.real import guest

LOOK_S: Final = 0.05
# A guest that has written nothing for this long is not running: 20 records, as a busy machine with
# emulated processors may hold one up for seconds.
QUIET_S: Final = 5.0
NOBODY_KNOWS: Final = "?"


@dataclass(slots=True, kw_only=True)
class Life:
    """One incarnation of a guest, as its disk shows it. Seconds of the lab's clock."""

    nonce: int
    first_s: float
    last_s: float
    node: str = NOBODY_KNOWS


@dataclass(slots=True, kw_only=True)
class Disk:
    path: Path
    consoles: Mapping[str, Path]  # node → log of the guest's serial port there
    number: int = -1  # of the newest record that was read
    records: int = 0
    strangers: int = 0  # records whose writer met another incarnation's
    writer: int = 0  # nonce of the newest record
    lives: dict[int, Life] = field(default_factory=dict)  # by nonce, in order of appearance


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the disks say about the whole run."""

    disks: int
    records: int
    ran_twice: tuple[str, ...]  # instances

    def __str__(self) -> str:
        verdict = ", ".join(self.ran_twice) + " ran twice" if self.ran_twice else "none ran twice"
        return f"{self.disks} guests' disks, {self.records} records: {verdict}"


class Witness:
    """Follows the first disk of every instance."""

    def __init__(self) -> None:
        self._disks: dict[str, Disk] = {}

    def follow(self, instance: str, path: Path, consoles: Mapping[str, Path]) -> None:
        self._disks[instance] = Disk(path=path, consoles=consoles)

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self.look(loop.time())
            await asyncio.sleep(LOOK_S)

    def look(self, now_s: float) -> None:
        """Read what is new on every disk."""
        for disk in self._disks.values():
            for record in guest.newer(disk.path, after=disk.number):
                disk.number, disk.writer = record.number, record.nonce
                disk.records += 1
                disk.strangers += record.saw_stranger
                life = disk.lives.setdefault(
                    record.nonce, Life(nonce=record.nonce, first_s=now_s, last_s=now_s)
                )
                life.last_s = now_s
            for life in disk.lives.values():
                if life.node == NOBODY_KNOWS:
                    life.node = _said_on(disk.consoles, life.nonce)

    def executions(self, now_s: float) -> Sequence[Execution]:
        """Every incarnation; one runs on if it wrote the newest record, not long ago."""
        return [
            Execution(
                instance=instance,
                node=life.node,
                started_s=life.first_s,
                ended_s=None
                if life.nonce == disk.writer and now_s - life.last_s < QUIET_S
                else life.last_s,
            )
            for instance, disk in self._disks.items()
            for life in disk.lives.values()
        ]

    def proof(self) -> Proof:
        """From the rings as they are on the disks now, and from every record seen before."""
        twice = [
            instance
            for instance, disk in self._disks.items()
            if disk.strangers or guest.ran_twice(guest.history(disk.path))
        ]
        return Proof(
            disks=len(self._disks),
            records=sum(disk.records for disk in self._disks.values()),
            ran_twice=tuple(sorted(twice)),
        )


def _said_on(consoles: Mapping[str, Path], nonce: int) -> str:
    """The node on whose serial port the incarnation named itself; a guest writes its disk first."""
    said = f"N={nonce:016x} ".encode()
    for node, log in consoles.items():
        if log.exists() and said in log.read_bytes():
            return node
    return NOBODY_KNOWS
