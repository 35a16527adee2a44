"""Lab hosts are true to life: power, boots, cables, libvirt, and a guest between two hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from evac_lab.real import guest
from evac_lab.real.errors import LabError
from evac_lab.real.host import Host
from evac_lab.real.lab import RealLab
from evac_lab.real.processes import until

libvirt = pytest.importorskip("libvirt", reason="libvirt-python is not installed: see requirements")

pytestmark = pytest.mark.real


@pytest.fixture
def disk(lab: RealLab, request: pytest.FixtureRequest) -> Iterator[Path]:
    path = lab.shared_folder / f"{abs(hash(request.node.name)):x}.raw"
    guest.make_disk(path)
    yield path
    path.unlink()


def _domain(disk: Path, *, shareable: bool) -> str:
    domain = ET.Element("domain", type="qemu")
    ET.SubElement(domain, "name").text = disk.stem
    ET.SubElement(domain, "memory", unit="MiB").text = str(guest.MEMORY_MIB)
    ET.SubElement(ET.SubElement(domain, "os"), "type", arch="x86_64").text = "hvm"
    ET.SubElement(ET.SubElement(domain, "features"), "acpi")
    devices = ET.SubElement(domain, "devices")
    drive = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(drive, "driver", name="qemu", type="raw")
    ET.SubElement(drive, "source", file=f"/srv/evac-lab/{disk.name}")
    ET.SubElement(drive, "target", dev="vda", bus="virtio")
    if shareable:
        ET.SubElement(drive, "shareable")
    card = ET.SubElement(devices, "interface", type="bridge")
    ET.SubElement(card, "source", bridge="br0")
    ET.SubElement(card, "model", type="virtio")
    return ET.tostring(domain, encoding="unicode")


async def _said_inside(host: Host, *argv: str) -> str:
    process = await host.exec(argv)
    output, _ = await process.communicate()
    return output.decode().strip()


def _boot_id_of_this_machine() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def _reaches_again(host: Host, address: str, port: int) -> None:
    """The neighbour that did not answer is asked anew only now and then, so not at once."""
    await until(lambda: _reaches(host, address, port), deadline_s=20.0, what="the way is open")


async def _reaches(host: Host, address: str, port: int) -> bool:
    probe = f"exec 3<>/dev/tcp/{address}/{port}"
    return await (await host.exec(["timeout", "1", "bash", "-c", probe])).wait() == 0


async def test_a_host_is_itself_and_not_this_machine(two_hosts: RealLab) -> None:
    host = two_hosts.host("h1")

    with libvirt.open(host.libvirt_uri) as connection:
        assert connection.getHostname() == "h1"
        assert str(host.uuid) in connection.getCapabilities()
        assert "domain type='kvm'" not in connection.getCapabilities()
    assert await _said_inside(host, "hostname") == "h1"
    assert await _said_inside(host, "ls", "/run") == "libvirt\nlibvirtd.pid"
    identity = (host.identity_folder / "product_uuid").read_text().strip()
    assert identity == str(host.uuid) != str(two_hosts.host("h2").uuid)


async def test_each_power_on_is_a_boot_of_its_own(two_hosts: RealLab) -> None:
    host, seen = two_hosts.host("h1"), set()

    for _ in range(3):
        seen.add(await _said_inside(host, "cat", "/proc/sys/kernel/random/boot_id"))
        await host.power_off()
        await host.power_on()

    assert len(seen | {_boot_id_of_this_machine()}) == 4


async def test_everything_inside_dies_with_the_power(two_hosts: RealLab) -> None:
    host = two_hosts.host("h1")
    plain = await host.exec(["sleep", "60"])
    service = host.daemon("service")
    service.start(host.enter_argv(["/usr/bin/setsid", "--wait", "/usr/bin/sleep", "60"]))

    await host.power_off()

    assert not host.is_on()
    assert not service.is_running()
    assert await plain.wait() != 0
    await plain.communicate()
    assert not two_hosts.network.exists("h1")
    with pytest.raises(LabError, match="off"):
        host.enter_argv(["/bin/true"])


async def test_a_dead_host_says_no_goodbye(two_hosts: RealLab) -> None:
    """A peer's connection to it stays half open, as after a real power cut."""
    dying, peer = two_hosts.host("h1"), two_hosts.host("h2")
    script = f"exec 3<>/dev/tcp/{dying.address}/16509; echo open; timeout 2 cat <&3; echo $?"
    talking = await peer.exec(["bash", "-c", script])
    assert talking.stdout is not None
    assert await talking.stdout.readline() == b"open\n"

    await dying.power_off()

    assert (await talking.stdout.read()).strip() == b"124"  # timed out: neither data nor end
    await talking.communicate()


async def test_the_power_button_ends_it_orderly(two_hosts: RealLab) -> None:
    host = two_hosts.host("h1")
    # Longer than libvirtd takes to end: nobody who is still at it is killed.
    goodbye = "sleep 2; echo goodbye; exit"
    script = f"trap '{goodbye}' TERM; echo ready; while :; do sleep 0.1; done"
    service = await host.exec(["bash", "-c", script])
    assert service.stdout is not None
    assert await service.stdout.readline() == b"ready\n"

    await host.shut_down()

    assert await service.stdout.read() == b"goodbye\n"
    await service.communicate()
    assert not host.is_on()


async def test_a_pulled_cable_stays_out_over_a_power_cycle(two_hosts: RealLab) -> None:
    host, control = two_hosts.host("h1"), two_hosts.control_address
    await _reaches_again(host, control, 5672)

    host.unplug()
    assert not await _reaches(host, control, 5672)
    await host.power_off()
    await host.power_on()
    assert not await _reaches(host, control, 5672)

    host.plug()
    await _reaches_again(host, control, 5672)


async def test_a_cut_is_between_two_machines_only(two_hosts: RealLab) -> None:
    one, two, net = two_hosts.host("h1"), two_hosts.host("h2"), two_hosts.network

    net.cut(one.facts.number, two.facts.number)
    assert not await _reaches(one, two.address, 16509)
    await _reaches_again(one, two_hosts.control_address, 5672)

    net.heal(one.facts.number, two.facts.number)
    await _reaches_again(one, two.address, 16509)


async def test_a_killed_libvirtd_comes_back_and_finds_its_guest(
    two_hosts: RealLab, disk: Path
) -> None:
    host = two_hosts.host("h1")
    with libvirt.open(host.libvirt_uri) as connection:
        connection.createXML(_domain(disk, shareable=False))
    before = await guest.next_record(disk)
    pid = int((host.directory / "run" / "libvirtd.pid").read_text())
    killed = await host.exec(["kill", "-9", str(pid)])
    await killed.communicate()

    def guest_is_seen() -> bool:
        try:
            with libvirt.open(host.libvirt_uri) as connection:
                return bool(connection.lookupByName(disk.stem).isActive())
        except libvirt.libvirtError:
            return False

    await until(lambda: not guest_is_seen(), deadline_s=5, what="libvirtd is dead")
    await until(guest_is_seen, deadline_s=15, what="the guest is seen again", every_s=0.2)
    # libvirtd shows a guest before it has its monitor again; destroyed then, it is "not found".
    await guest.next_record(disk, after=before.number + 12)
    with libvirt.open(host.libvirt_uri) as connection:
        connection.lookupByName(disk.stem).destroy()
    assert len(guest.incarnations(guest.history(disk))) == 1


async def test_after_a_power_cut_the_guest_runs_elsewhere_once(
    two_hosts: RealLab, disk: Path
) -> None:
    dying, other = two_hosts.host("h1"), two_hosts.host("h2")
    with libvirt.open(dying.libvirt_uri) as connection:
        connection.createXML(_domain(disk, shareable=True))
    last = await guest.next_record(disk, after=3)

    await dying.power_off()
    with libvirt.open(other.libvirt_uri) as connection:
        domain = connection.createXML(_domain(disk, shareable=True))
        await guest.next_record(disk, after=last.number + 6)
        domain.destroy()

    assert len(guest.incarnations(guest.history(disk))) == 2
    assert not guest.ran_twice(guest.history(disk))


async def test_a_start_without_the_cut_is_proven_to_have_run_twice(
    two_hosts: RealLab, disk: Path
) -> None:
    connections = [libvirt.open(host.libvirt_uri) for host in two_hosts.hosts]
    domains = []
    for connection in connections:
        domains.append(connection.createXML(_domain(disk, shareable=True)))
        last = await guest.next_record(disk, after=3)
    await guest.next_record(disk, after=last.number + 12)
    for domain in domains:
        domain.destroy()
    for connection in connections:
        connection.close()

    assert guest.ran_twice(guest.history(disk))


async def test_a_live_migration_is_one_incarnation(two_hosts: RealLab, disk: Path) -> None:
    source, target = (libvirt.open(host.libvirt_uri) for host in two_hosts.hosts)
    domain = source.createXML(_domain(disk, shareable=True))
    before = await guest.next_record(disk, after=3)

    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_UNSAFE
    moved = await asyncio.to_thread(domain.migrate3, target, {}, flags)
    await guest.next_record(disk, after=before.number + 8)
    moved.destroy()
    source.close()
    target.close()

    assert len(guest.incarnations(guest.history(disk))) == 1
    assert not guest.ran_twice(guest.history(disk))
