"""Reading a guest's disk: what counts as having run twice."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest

from evac_lab.real import guest
from evac_lab.real.errors import LabError

_UUID = UUID("00112233-4455-6677-8899-aabbccddeeff")
_CLOCK = bytes.fromhex("20260228235958")
A, B = 0xA, 0xB


def _disk(nonces: Sequence[int], *, strangers: Sequence[int] = (), clock: bytes = _CLOCK) -> bytes:
    """A disk on which these incarnations wrote, in this order."""
    disk = bytearray(guest.DISK_BYTES)
    for number, nonce in enumerate(nonces):
        flags = 1 if number in strangers else 0
        record = struct.pack(
            "<4sIIQ16s7sB", b"EVHB", number, number, nonce, _UUID.bytes, clock, flags
        )
        at = (64 + number % 8128) * 512
        disk[at : at + len(record)] = record
    return bytes(disk)


def test_a_record_is_read_as_written() -> None:
    (record,) = guest.parse_ring(_disk([A]))

    assert (record.number, record.counter, record.nonce) == (0, 0, A)
    assert record.uuid == _UUID
    assert record.at.isoformat() == "2026-02-28T23:59:58+00:00"
    assert not record.saw_stranger


@pytest.mark.parametrize(
    ("nonces", "strangers", "twice"),
    [
        ([], (), False),
        ([A, A, A], (), False),
        ([A, A, B, B], (), False),
        ([A, B, A], (), True),
        ([A, A, B, A, B, B], (), True),
        ([A, A, A], (2,), True),
    ],
    ids=["empty", "one run", "a restart", "returned", "interleaved", "only a stranger's trace"],
)
def test_twice_means_that_one_wrote_after_another_had(
    nonces: list[int], strangers: tuple[int, ...], *, twice: bool
) -> None:
    assert guest.ran_twice(guest.parse_ring(_disk(nonces, strangers=strangers))) is twice


def test_a_full_ring_is_read_from_its_oldest_record() -> None:
    records = guest.parse_ring(_disk([A] * 8000 + [B] * 200))

    assert [record.number for record in records] == list(range(72, 8200))
    assert [run.records for run in guest.incarnations(records)] == [7928, 200]
    assert not guest.ran_twice(records)


def test_a_short_or_empty_disk_has_no_history() -> None:
    assert guest.parse_ring(b"") == ()
    assert guest.parse_ring(bytes(40_000)) == ()


def test_a_damaged_record_is_refused_not_skipped() -> None:
    with pytest.raises(LabError, match="damaged"):
        guest.parse_ring(_disk([A], clock=b"\xff" * 7))


def test_a_new_disk_boots_and_overwrites_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "g.raw"
    guest.make_disk(disk)

    assert disk.stat().st_size == guest.DISK_BYTES == 4 * 1024 * 1024
    assert disk.read_bytes()[510:512] == b"\x55\xaa"
    assert guest.history(disk) == ()
    with pytest.raises(FileExistsError):
        guest.make_disk(disk)


def test_each_message_has_a_new_number(tmp_path: Path) -> None:
    disk = tmp_path / "g.raw"
    guest.make_disk(disk)

    guest.tell(disk, guest.Fate.HANG)
    first = disk.read_bytes()[9 * 512 :][:9]
    guest.tell(disk, guest.Fate.RESET)
    second = disk.read_bytes()[9 * 512 :][:9]

    assert (first, second) == (b"EVMB\x01\0\0\0h", b"EVMB\x02\0\0\0r")
