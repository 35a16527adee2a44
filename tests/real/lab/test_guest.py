"""The guest under QEMU: its disk tells a restart from a double run, and it meets every fate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from evac_lab.real import guest
from evac_lab.real.guest import Fate
from evac_lab.real.packages import find_program

pytestmark = pytest.mark.real

_UUID = "00112233-4455-6677-8899-aabbccddeeff"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "guest.raw"
    guest.make_disk(path)
    return path


@asynccontextmanager
async def _running(
    qemu: str, disk: Path, *, bus: str = "virtio", machine: str = "pc", shared: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        qemu,
        *("-machine", machine, "-accel", "tcg", "-m", str(guest.MEMORY_MIB), "-uuid", _UUID),
        *("-display", "none", "-nodefaults", "-no-reboot", "-monitor", "stdio"),
        *("-device", "pvpanic", "-action", "panic=shutdown"),
        *("-blockdev", f"file,node-name=f,filename={disk},locking={'off' if shared else 'auto'}"),
        *("-blockdev", "raw,node-name=d,file=f"),
        *("-device", f"{'virtio-blk-pci' if bus == 'virtio' else 'ide-hd'},drive=d"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _ends(process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(10):
        await process.wait()


@pytest.mark.parametrize(
    ("bus", "machine"), [("virtio", "pc"), ("virtio", "q35"), ("ide", "pc"), ("ide", "q35")]
)
async def test_it_writes_its_uuid_and_the_time_on_any_bus(
    qemu: str, disk: Path, bus: str, machine: str
) -> None:
    async with _running(qemu, disk, bus=bus, machine=machine):
        record = await guest.next_record(disk, after=2)

    assert str(record.uuid) == _UUID
    assert record.counter == record.number
    assert not guest.ran_twice(guest.history(disk))


async def test_a_restart_is_two_incarnations_and_not_twice(qemu: str, disk: Path) -> None:
    async with _running(qemu, disk) as first:
        last = await guest.next_record(disk, after=3)
        first.kill()
    async with _running(qemu, disk):
        await guest.next_record(disk, after=last.number + 5)

    runs = guest.incarnations(guest.history(disk))
    assert len(runs) == 2
    assert runs[0].nonce != runs[1].nonce
    assert not guest.ran_twice(guest.history(disk))


async def test_two_copies_on_one_disk_are_proven(qemu: str, disk: Path) -> None:
    async with _running(qemu, disk, shared=True), _running(qemu, disk, shared=True):
        await guest.next_record(disk, after=20)

    assert guest.ran_twice(guest.history(disk))
    assert len({record.nonce for record in guest.history(disk)}) == 2


async def test_qemus_lock_would_have_hidden_the_second_copy(qemu: str, disk: Path) -> None:
    async with _running(qemu, disk):
        await guest.next_record(disk)
        async with _running(qemu, disk) as second:
            assert second.stderr is not None
            complaint = await second.stderr.read()

    assert b'Failed to get "write" lock' in complaint
    assert not guest.ran_twice(guest.history(disk))


@pytest.mark.parametrize("fate", [Fate.POWER_OFF, Fate.CRASH, Fate.RESET])
async def test_it_ends_as_told_and_forgets_it_for_the_next_boot(
    qemu: str, disk: Path, fate: Fate
) -> None:
    async with _running(qemu, disk) as process:
        told = await guest.next_record(disk)
        guest.tell(disk, fate)
        await _ends(process)
    async with _running(qemu, disk):
        await guest.next_record(disk, after=told.number + 12)


async def test_a_hung_guest_writes_no_more_and_its_process_stays(qemu: str, disk: Path) -> None:
    async with _running(qemu, disk) as process:
        await guest.next_record(disk)
        guest.tell(disk, Fate.HANG)
        await asyncio.sleep(8 * guest.TICK_S)
        silent = guest.history(disk)
        await asyncio.sleep(8 * guest.TICK_S)

        assert guest.history(disk) == silent
        assert process.returncode is None


@pytest.mark.parametrize("deaf", [False, True])
async def test_it_obeys_the_power_button_unless_deaf(qemu: str, disk: Path, *, deaf: bool) -> None:
    async with _running(qemu, disk) as process:
        assert process.stdin is not None
        record = await guest.next_record(disk)
        if deaf:
            guest.tell(disk, Fate.DEAF)
            record = await guest.next_record(disk, after=record.number + 4)
        process.stdin.write(b"system_powerdown\n")
        if deaf:
            await guest.next_record(disk, after=record.number + 8)
        else:
            await _ends(process)


async def test_the_committed_program_is_what_its_source_says(tmp_path: Path) -> None:
    nasm = find_program("nasm")
    if nasm is None:
        pytest.skip("the assembler is not installed: apt-get install nasm")
    built = tmp_path / "guest.bin"
    source = guest.PROGRAM.with_suffix(".asm")
    process = await asyncio.create_subprocess_exec(nasm, "-f", "bin", "-o", built, source)

    assert await process.wait() == 0
    assert built.read_bytes() == guest.PROGRAM.read_bytes()
