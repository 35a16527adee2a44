"""The libvirt driver with guests whose disks prove what ran: fates, locks, a hung libvirtd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from evac_common.messages.commands import DiskSpec, InstanceSpec
from evac_common.messages.reports import StartErrorKind
from evac_common.model.states import ExitReason, PoolKind
from evac_compute.ports import (
    DomainEnded,
    Hypervisor,
    HypervisorBack,
    HypervisorEvent,
    HypervisorUnreachable,
    StartError,
)
from tests.contract.hypervisor.suite import GEN, fresh_id, start, until

pytest.importorskip("libvirt", reason="libvirt-python is not installed: see requirements")

from evac_lab.real import guest
from evac_lab.real.host import Host
from tests.contract.hypervisor.real_host import SHARED, RealBench, lab_host, opened

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with lab_host() as host:
        yield host


@pytest.fixture
async def bench(host: Host) -> AsyncIterator[RealBench]:
    async with opened(RealBench(host)) as bench:
        yield bench


def disk_of(bench: RealBench, instance_id: str) -> Path:
    path = bench.host.shared_folder / f"{instance_id}.raw"
    if not path.exists():
        guest.make_disk(path)
    return path


def spec(volume: str, instance_id: str, *, shareable: bool = False) -> InstanceSpec:
    disk = DiskSpec(
        pool_kind=PoolKind.DIR, source=SHARED, volume=volume, format="raw", shareable=shareable
    )
    return InstanceSpec(
        name=f"guest-{int(instance_id, 16)}", vcpus=1, memory_mib=guest.MEMORY_MIB, disks=[disk]
    )


async def boot(bench: RealBench, port: Hypervisor, instance_id: str, *, run: int = 1) -> Path:
    """A guest that has begun to write to its disk."""
    disk = disk_of(bench, instance_id)
    before = len(guest.history(disk))
    await port.start(
        spec(disk.name, instance_id), instance_id=instance_id, epoch=1, run=run, gen=GEN
    )
    await guest.next_record(disk, after=before)
    return disk


def ended(instance_id: str, reason: ExitReason) -> DomainEnded:
    return DomainEnded(instance_id=instance_id, epoch=1, run=1, reason=reason)


@pytest.mark.parametrize(
    ("fate", "reason"),
    [(guest.Fate.POWER_OFF, ExitReason.SHUTDOWN), (guest.Fate.CRASH, ExitReason.PANICKED)],
)
async def test_a_guests_fate_is_told_as_it_was(
    bench: RealBench, fate: guest.Fate, reason: ExitReason
) -> None:
    heard: list[HypervisorEvent] = []
    bench.port.subscribe(heard.append)
    one = fresh_id()
    disk = await boot(bench, bench.port, one)
    guest.tell(disk, fate)
    await until(lambda: ended(one, reason) in heard)
    assert await bench.port.find(one) is None


async def test_a_guest_that_obeys_is_powered_off_and_a_deaf_one_is_ended(bench: RealBench) -> None:
    heard: list[HypervisorEvent] = []
    bench.port.subscribe(heard.append)
    polite, deaf = fresh_id(), fresh_id()
    await boot(bench, bench.port, polite)
    disk = await boot(bench, bench.port, deaf)
    guest.tell(disk, guest.Fate.DEAF)
    await asyncio.sleep(3 * guest.TICK_S)

    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await bench.port.stop(polite, epoch=1, grace_s=20)
    assert loop.time() - began_s < 15
    await bench.port.stop(deaf, epoch=1, grace_s=2)

    assert await bench.port.domains() == ()
    await until(lambda: ended(polite, ExitReason.SHUTDOWN) in heard)
    await until(lambda: ended(deaf, ExitReason.DESTROYED) in heard)


async def test_a_held_image_lock_and_a_missing_volume_are_told_apart(bench: RealBench) -> None:
    one, two, three = fresh_id(), fresh_id(), fresh_id()
    disk = await boot(bench, bench.port, one)

    with pytest.raises(StartError) as locked:
        await bench.port.start(spec(disk.name, two), instance_id=two, epoch=1, run=1, gen=GEN)
    with pytest.raises(StartError) as missing:
        wanted = spec("nothing.raw", three)
        await bench.port.start(wanted, instance_id=three, epoch=1, run=1, gen=GEN)

    assert locked.value.kind is StartErrorKind.STORAGE_LOCKED
    assert missing.value.kind is StartErrorKind.STORAGE
    assert [domain.instance_id for domain in await bench.port.domains()] == [one]
    assert not guest.ran_twice(guest.history(disk))


async def test_a_killed_libvirtd_takes_no_guest_and_what_ended_meanwhile_is_seen(
    bench: RealBench,
) -> None:
    heard: list[HypervisorEvent] = []
    bench.port.subscribe(heard.append)
    stays, goes = fresh_id(), fresh_id()
    disk = await boot(bench, bench.port, stays)
    other = await boot(bench, bench.port, goes)

    await bench.kill_libvirtd()
    guest.tell(other, guest.Fate.POWER_OFF)
    await until(lambda: any(isinstance(event, HypervisorBack) for event in heard))

    found = await bench.port.domains()
    assert [(seen.instance_id, seen.epoch, seen.running) for seen in found] == [(stays, 1, True)]
    last = guest.history(disk)[-1].number
    await guest.next_record(disk, after=last)
    assert len(guest.incarnations(guest.history(disk))) == 1


async def test_what_a_hung_libvirtd_builds_late_never_touches_its_disk(
    bench: RealBench,
) -> None:
    impatient = RealBench(bench.host, start_time_limit_s=1.0)
    async with opened(impatient):
        one = fresh_id()
        disk = disk_of(bench, one)
        await impatient.away()
        with pytest.raises(HypervisorUnreachable):
            await impatient.port.start(
                spec(disk.name, one), instance_id=one, epoch=1, run=1, gen=GEN
            )
        await impatient.back()
        await asyncio.sleep(3)  # time for the late build, if there is one
        found = await bench_find(bench, one)
        assert found is None or not found
        assert guest.history(disk) == ()


async def bench_find(bench: RealBench, instance_id: str) -> bool | None:
    """Does it execute? None: there is no such domain."""
    async with asyncio.timeout(20):
        while True:
            try:
                found = await bench.port.find(instance_id)
            except HypervisorUnreachable:
                await asyncio.sleep(0.2)
            else:
                return None if found is None else found.running


async def test_two_copies_on_a_shareable_disk_are_proven_by_it(bench: RealBench) -> None:
    """The witness itself: without it the other tests would prove nothing."""
    one, two = fresh_id(), fresh_id()
    disk = disk_of(bench, one)
    for instance_id in (one, two):
        await bench.port.start(
            spec(disk.name, instance_id, shareable=True),
            instance_id=instance_id,
            epoch=1,
            run=1,
            gen=GEN,
        )
    await until(lambda: guest.ran_twice(guest.history(disk)))


async def test_a_domain_of_this_run_left_paused_is_let_go_by_the_next_daemon(
    bench: RealBench,
) -> None:
    import libvirt

    one = fresh_id()
    await start(bench.port, one)
    connection = libvirt.open(bench.host.libvirt_uri)
    connection.lookupByName(f"guest-{int(one, 16)}").suspend()
    connection.close()
    found = await bench.port.find(one)
    assert found is not None
    assert not found.running

    port = await bench.another_port()
    await start(port, one)

    found = await port.find(one)
    assert found is not None
    assert found.running
