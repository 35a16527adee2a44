"""The definition of a domain, as an element tree: no string of ours ever becomes markup.

Domains are transient (nothing on the node may start them again by itself) and carry who they are:

    <evac:own xmlns:evac="urn:evac:1" instance="..." epoch="3" run="1" gen="7.2"/>
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from lxml import etree

from evac_common.messages.commands import DiskSpec, InstanceSpec
from evac_common.messages.reports import StartErrorKind
from evac_common.model.identity import Gen
from evac_common.model.states import PoolKind
from evac_compute.ports import StartError

NAMESPACE: Final = "urn:evac:1"
_TARGET_PREFIX: Final = {"virtio": "vd", "sata": "sd", "scsi": "sd", "ide": "hd"}
_NBD_PORT: Final = "10809"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainOptions:
    """What a node adds to every definition."""

    virt_type: str = "kvm"  # kvm, qemu, or test
    disk_bus: str = "virtio"
    disk_cache: str = "none"
    machine: str = ""
    serial_dir: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Who a domain is."""

    instance_id: str
    epoch: int
    run: int
    gen: Gen


def domain_xml(spec: InstanceSpec, own: Own, options: DomainOptions) -> str:
    """The definition. Raises StartError for what cannot be expressed."""
    domain = etree.Element("domain", type=options.virt_type)
    _text(domain, "name", spec.name)
    _text(domain, "uuid", dashed(own.instance_id))
    metadata = etree.SubElement(domain, "metadata")
    _own(metadata, own)
    _text(domain, "memory", str(spec.memory_mib), unit="MiB")
    _text(domain, "vcpu", str(spec.vcpus))
    system = etree.SubElement(domain, "os")
    kind = _text(system, "type", "hvm")
    if options.machine:
        kind.set("machine", options.machine)
    etree.SubElement(system, "boot", dev="hd")
    features = etree.SubElement(domain, "features")
    etree.SubElement(features, "acpi")
    etree.SubElement(features, "apic")
    if options.virt_type == "kvm":
        etree.SubElement(domain, "cpu", mode="host-model")
    etree.SubElement(domain, "clock", offset="utc")
    # Whatever the guest does, only a command of evac starts it again.
    _text(domain, "on_poweroff", "destroy")
    _text(domain, "on_reboot", "restart")
    _text(domain, "on_crash", "destroy")
    devices = etree.SubElement(domain, "devices")
    for index, disk in enumerate(spec.disks):
        _disk(devices, index, disk, options)
    for nic in spec.nics:
        interface = etree.SubElement(devices, "interface", type="bridge")
        etree.SubElement(interface, "mac", address=nic.mac)
        etree.SubElement(interface, "source", bridge=nic.bridge)
        etree.SubElement(interface, "model", type="virtio")
    if options.virt_type != "test":
        _console(devices, spec.name, options)
        etree.SubElement(devices, "controller", type="usb", model="none")
        etree.SubElement(devices, "panic", model="isa")
    return etree.tostring(domain, encoding="unicode")


def read_own(metadata: str) -> tuple[int, int]:
    """Epoch and run of a domain's own element. (0, 0) when it is not one."""
    try:
        element = etree.fromstring(metadata, etree.XMLParser(resolve_entities=False))
        return int(element.get("epoch", "0")), int(element.get("run", "0"))
    except (etree.XMLSyntaxError, ValueError):
        return 0, 0


def dashed(instance_id: str) -> str:
    return str(uuid.UUID(instance_id))


def undashed(uuid_text: str) -> str:
    return uuid.UUID(uuid_text).hex


def _text(parent: etree._Element, tag: str, text: str, **attributes: str) -> etree._Element:
    element = etree.SubElement(parent, tag, attrib=attributes)
    element.text = text
    return element


def _own(metadata: etree._Element, own: Own) -> None:
    etree.SubElement(
        metadata,
        etree.QName(NAMESPACE, "own"),
        attrib={
            "instance": own.instance_id,
            "epoch": str(own.epoch),
            "run": str(own.run),
            "gen": f"{own.gen.term}.{own.gen.incarnation}",
        },
        nsmap={"evac": NAMESPACE},
    )


def _disk(devices: etree._Element, index: int, disk: DiskSpec, options: DomainOptions) -> None:
    where = {
        PoolKind.DIR: "file",
        PoolKind.NFS: "file",
        PoolKind.LVM: "block",
        PoolKind.RBD: "network",
        PoolKind.NBD: "network",
    }[disk.pool_kind]
    element = etree.SubElement(devices, "disk", type=where, device="disk")
    driver = {"name": "qemu", "type": disk.format, "cache": options.disk_cache}
    etree.SubElement(element, "driver", attrib=driver)
    _source(element, disk)
    letter = "abcdefghijklmnopqrstuvwxyz"[index : index + 1]
    if not letter:
        raise StartError(StartErrorKind.INVALID, "more than 26 disks")
    target = _TARGET_PREFIX[options.disk_bus] + letter
    etree.SubElement(element, "target", dev=target, bus=options.disk_bus)
    if disk.shareable:
        etree.SubElement(element, "shareable")


def _source(element: etree._Element, disk: DiskSpec) -> None:
    match disk.pool_kind:
        case PoolKind.DIR | PoolKind.NFS:
            etree.SubElement(element, "source", file=f"{disk.source.rstrip('/')}/{disk.volume}")
        case PoolKind.LVM:
            etree.SubElement(element, "source", dev=f"/dev/{disk.source}/{disk.volume}")
        case PoolKind.RBD:
            # Monitors and keyring come from the node's /etc/ceph.
            etree.SubElement(element, "source", protocol="rbd", name=f"{disk.source}/{disk.volume}")
        case PoolKind.NBD:
            host, _, port = disk.source.rpartition(":")
            source = etree.SubElement(element, "source", protocol="nbd", name=disk.volume)
            etree.SubElement(
                source, "host", name=host or disk.source, port=port if host else _NBD_PORT
            )
        case _:
            assert_never(disk.pool_kind)


def _console(devices: etree._Element, name: str, options: DomainOptions) -> None:
    if options.serial_dir is None:
        serial = etree.SubElement(devices, "serial", type="pty")
    else:
        serial = etree.SubElement(devices, "serial", type="unix")
        path = str(options.serial_dir / f"{name}.sock")
        etree.SubElement(serial, "source", mode="bind", path=path)
        log = str(options.serial_dir / f"{name}.log")
        etree.SubElement(serial, "log", file=log, append="on")
    etree.SubElement(serial, "target", port="0")
