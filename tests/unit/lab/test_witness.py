"""The witness of the real lab: intervals from records alone, nodes from the guests' own words."""

from __future__ import annotations

import struct
from pathlib import Path
from uuid import UUID

import pytest

from evac_lab.judge import judge
from evac_lab.real import guest
from evac_lab.real.witness import NOBODY_KNOWS, QUIET_S, Witness

_UUID = UUID("00112233-4455-6677-8899-aabbccddeeff")
_CLOCK = bytes.fromhex("20260228235958")
A, B = 0xA, 0xB


class Bench:
    """A disk and the serial logs of two nodes, written as guests do."""

    def __init__(self, folder: Path) -> None:
        self.disk = folder / "web-1-0.raw"
        guest.make_disk(self.disk)
        self.logs = {"n1": folder / "n1.log", "n2": folder / "n2.log"}
        self.witness = Witness()
        self.witness.follow("web-1", self.disk, self.logs)
        self._number = 0

    def write(self, nonce: int, *, stranger: bool = False) -> None:
        number = self._number
        record = struct.pack(
            "<4sIIQ16s7sB", b"EVHB", number, number, nonce, _UUID.bytes, _CLOCK, stranger
        )
        self._number += 1
        with self.disk.open("r+b") as disk:
            disk.seek((64 + number % 8128) * 512)
            disk.write(record)
            disk.seek(8 * 512)
            disk.write(struct.pack("<4sIQ", b"EVHD", self._number, nonce))

    def say(self, node: str, nonce: int) -> None:
        with self.logs[node].open("a") as log:
            log.write(f"N={nonce:016x} C=00000000 S=00000000 \r\n")

    def lives(self, now_s: float) -> list[tuple[str, float, float | None]]:
        found = self.witness.executions(now_s)
        return [(life.node, life.started_s, life.ended_s) for life in found]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_restart_is_two_lives_and_the_time_between(bench: Bench) -> None:
    bench.say("n1", A)
    for at_s in (1.0, 2.0):
        bench.write(A)
        bench.witness.look(at_s)
    bench.say("n2", B)
    bench.write(B)
    bench.witness.look(9.0)

    assert bench.lives(9.5) == [("n1", 1.0, 2.0), ("n2", 9.0, None)]
    verdict = judge(bench.witness.executions(9.5), should_run=["web-1"], end_s=9.5)
    assert verdict.violations == []
    assert verdict.histories["web-1"].downtime_s == pytest.approx(7.0)
    assert bench.witness.proof().ran_twice == ()


def test_two_that_write_in_turn_overlap(bench: Bench) -> None:
    for at_s, nonce in ((1.0, A), (2.0, B), (3.0, A), (4.0, B)):
        bench.say("n1" if nonce == A else "n2", nonce)
        bench.write(nonce)
        bench.witness.look(at_s)

    verdict = judge(bench.witness.executions(4.5), should_run=["web-1"], end_s=4.5)
    assert verdict.ran_twice == ("web-1",)
    assert bench.witness.proof().ran_twice == ("web-1",)


def test_a_trace_of_a_stranger_is_proof_enough(bench: Bench) -> None:
    bench.write(A)
    bench.write(A, stranger=True)
    bench.witness.look(1.0)

    assert bench.witness.proof().ran_twice == ("web-1",)


def test_a_guest_that_falls_silent_has_ended_with_its_last_record(bench: Bench) -> None:
    bench.say("n1", A)
    bench.write(A)
    bench.witness.look(1.0)

    assert bench.lives(1.0 + QUIET_S - 0.1) == [("n1", 1.0, None)]
    assert bench.lives(1.0 + QUIET_S) == [("n1", 1.0, 1.0)]


def test_the_node_is_known_once_the_guest_has_named_itself_there(bench: Bench) -> None:
    bench.write(A)
    bench.witness.look(1.0)
    assert bench.lives(1.0) == [(NOBODY_KNOWS, 1.0, None)]

    bench.say("n2", A)
    bench.witness.look(1.1)
    assert bench.lives(1.1) == [("n2", 1.0, None)]


def test_only_new_records_are_read_also_over_the_rings_end(bench: Bench) -> None:
    for _ in range(8130):
        bench.write(A)

    last = guest.newer(bench.disk, after=8125)
    assert [record.number for record in last] == [8126, 8127, 8128, 8129]
    assert len(guest.newer(bench.disk, after=-1)) == 8128
    assert guest.newer(bench.disk, after=8129) == ()
