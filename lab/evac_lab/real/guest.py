"""The lab's guest: a disk that boots by itself and proves when its instance ran, and whether twice.

`guest.asm` is the program and the format of its disk; `guest.bin` is what nasm makes of it. About
four times a second it appends a record to a ring on its disk. Two copies on one disk share the
ring, and each record says which incarnation wrote it: so the disk of a guest that ran twice at the
same time shows their records mixed, whatever the control plane believes.

Give the instance the disk in format raw, 4 MiB of memory, any disk bus. For proofs give it
`shareable` disks: QEMU's own image lock would otherwise hide that somebody tried.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from uuid import UUID

from evac_lab.real.errors import LabError
from evac_lab.real.processes import until

PROGRAM = Path(__file__).with_name("guest.bin")
MEMORY_MIB = 4
TICK_S = 4 / 18.2065  # of the BIOS clock

_SECTOR = 512
_RING_START, _RING = 64, 8128
DISK_BYTES = (_RING_START + _RING) * _SECTOR
_HEAD = 8 * _SECTOR
_HEADER = struct.Struct("<4sI")
_MAILBOX = 9 * _SECTOR
_MAIL = struct.Struct("<4sI1s")
_RECORD = struct.Struct("<4sIIQ16s7sB")
_STRANGER = 1


class Fate(StrEnum):
    """What a guest can be told; the letter that tells it."""

    POWER_OFF = "p"  # as `poweroff` inside: the instance ends cleanly
    CRASH = "c"  # through a pvpanic device; without one the guest goes on
    RESET = "r"
    HANG = "h"  # the process stays and runs nothing
    DEAF = "i"  # ignores the power button from now on


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One heartbeat of a guest, as its disk holds it."""

    number: int  # position in the disk's history, over all incarnations
    counter: int  # of this incarnation, from 0
    nonce: int  # which incarnation: new at every boot of the guest, kept in a live migration
    uuid: UUID  # of the instance
    at: datetime  # the guest's clock, UTC, whole seconds
    saw_stranger: bool  # another incarnation wrote since this one's previous record


@dataclass(frozen=True, slots=True, kw_only=True)
class Incarnation:
    """One uninterrupted run of records of one boot of the guest."""

    nonce: int
    first: Record
    last: Record
    records: int


def make_disk(path: Path) -> None:
    """Write a new guest disk. Raises FileExistsError: a history is never overwritten."""
    with path.open("xb") as disk:
        disk.write(PROGRAM.read_bytes())
        disk.truncate(DISK_BYTES)


def parse_ring(disk: bytes) -> tuple[Record, ...]:
    """The records of a guest's disk, oldest first; the ring keeps the last half hour.

    Raises LabError when a record cannot be what a guest wrote.
    """
    sectors = range(_RING_START * _SECTOR, min(len(disk), DISK_BYTES), _SECTOR)
    found = [
        _record(disk[at : at + _RECORD.size]) for at in sectors if disk[at : at + 4] == b"EVHB"
    ]
    return tuple(sorted(found, key=lambda record: record.number))


def history(path: Path) -> tuple[Record, ...]:
    """`parse_ring` of a disk file; may be read while guests run."""
    return parse_ring(path.read_bytes())


def newer(path: Path, *, after: int) -> tuple[Record, ...]:
    """Records numbered above `after`, oldest first, of a disk that guests may be writing to.

    Reads their sectors only, so that a disk can be looked at many times a second.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        magic, following = _HEADER.unpack(os.pread(descriptor, _HEADER.size, _HEAD))
        if magic != b"EVHD":
            return ()
        numbers = range(max(after + 1, following - _RING), following)
        sectors = ((_RING_START + number % _RING) * _SECTOR for number in numbers)
        read = [os.pread(descriptor, _RECORD.size, at) for at in sectors]
    finally:
        os.close(descriptor)
    # A sector may hold a later record by now: it is found again, by its own number, next time.
    return tuple(
        record
        for data, number in zip(read, numbers, strict=True)
        if data[:4] == b"EVHB" and (record := _record(data)).number == number
    )


def incarnations(records: Sequence[Record]) -> tuple[Incarnation, ...]:
    """The history as runs of one incarnation each, oldest first; a nonce twice means ran twice."""
    runs = [list(run) for _, run in groupby(records, key=lambda record: record.nonce)]
    return tuple(
        Incarnation(nonce=run[0].nonce, first=run[0], last=run[-1], records=len(run))
        for run in runs
    )


def ran_twice(records: Sequence[Record]) -> bool:
    """Whether two incarnations ran at the same time: one wrote again after another had written.

    Also true when the other's records themselves are lost in the race for a place in the ring,
    since a guest notes that it met a stranger.
    """
    nonces = [incarnation.nonce for incarnation in incarnations(records)]
    return len(set(nonces)) < len(nonces) or any(record.saw_stranger for record in records)


def tell(path: Path, fate: Fate) -> None:
    """Put a message into the mailbox on the disk: every guest running on it obeys within a tick."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        _, number, _ = _MAIL.unpack(os.pread(descriptor, _MAIL.size, _MAILBOX))
        mail = _MAIL.pack(b"EVMB", (number + 1) % 2**32, fate.encode())
        os.pwrite(descriptor, mail.ljust(_SECTOR, b"\0"), _MAILBOX)
    finally:
        os.close(descriptor)


async def next_record(path: Path, *, after: int = -1, deadline_s: float = 20.0) -> Record:
    """The newest record as soon as its number is above `after`. Raises NotReady at the deadline."""
    found: list[Record] = []

    def is_there() -> bool:
        found[:] = newer(path, after=after)[-1:]
        return bool(found)

    await until(is_there, deadline_s=deadline_s, what=f"a record on {path.name} after {after}")
    return found[0]


def _record(data: bytes) -> Record:
    _, number, counter, nonce, identity, clock, flags = _RECORD.unpack(data)
    try:
        century, year, *rest = (int(f"{byte:02x}") for byte in clock)
        at = datetime(century * 100 + year, *rest, tzinfo=UTC)  # type: ignore[misc,arg-type]  # five numbers: month to second
    except ValueError as error:
        raise LabError("a record on a guest's disk is damaged", data=data.hex()) from error
    return Record(
        number=number,
        counter=counter,
        nonce=nonce,
        uuid=UUID(bytes=identity),
        at=at,
        saw_stranger=bool(flags & _STRANGER),
    )
