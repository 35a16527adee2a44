"""A scenario as real hosts can run it: every instance has a disk whose guest proves when it ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from evac_common.model.manifest import Disk, volume_name
from evac_common.model.states import PoolKind
from evac_lab.real import guest
from evac_lab.real.errors import CannotRunHere
from evac_lab.real.host_init import SHARED
from evac_lab.scenario.document import ScenarioPool
from evac_lab.scenario.reading import Scenario

BOOT_POOL: Final = "boot-sectors"  # for instances that declare no disk; all nodes reach it


def with_guests(scenario: Scenario) -> Scenario:
    """The same scenario where every instance has a boot-sector disk.

    A disk of which the file does not say whether it is shareable becomes so: QEMU's image lock
    must not hide that a guest was started twice. Raises CannotRunHere for pools that are no folder.
    """
    document = scenario.document
    for name, pool in document.pools.items():
        if pool.kind not in (PoolKind.DIR, PoolKind.NFS):
            raise CannotRunHere(f"pool {name}: the real lab has no storage of kind {pool.kind}")
        source = PurePosixPath(pool.source)
        if not source.is_relative_to(SHARED) or ".." in source.parts:
            raise CannotRunHere(f"pool {name}: hosts of the real lab share only {SHARED}")
    boot = Disk(pool=BOOT_POOL, shareable=True)
    instances = {}
    for name, instance in document.instances.items():
        disks = [
            disk if "shareable" in disk.model_fields_set else _shareable(disk)
            for disk in instance.disks
        ]
        if any(disk.format != "raw" for disk in disks):
            raise CannotRunHere(f"instance {name}: the real lab's disks are raw")
        instances[name] = instance.model_copy(update={"disks": disks or [boot]})
    pools = dict(document.pools)
    if any(not instance.disks for instance in document.instances.values()):
        pools[BOOT_POOL] = ScenarioPool(kind=PoolKind.DIR, nodes=sorted(document.nodes))
    changed = document.model_copy(update={"pools": pools, "instances": instances})
    return replace(scenario, document=changed)


def _shareable(disk: Disk) -> Disk:
    return disk.model_copy(update={"shareable": True})


def make_disks(scenario: Scenario, shared: Path) -> dict[str, Path]:
    """Make every disk that is not there yet; the first one of each instance, by name."""
    document = scenario.document
    first: dict[str, Path] = {}
    for name, instance in document.instances.items():
        for index, disk in enumerate(instance.disks):
            path = _outside(document.pools, shared, disk.pool) / volume_name(name, index, disk)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                guest.make_disk(path)
            first.setdefault(name, path)
    return first


def _outside(pools: Mapping[str, ScenarioPool], shared: Path, pool: str) -> Path:
    return shared / PurePosixPath(pools[pool].source).relative_to(SHARED)


def consoles(folders: Mapping[str, Path], instance: str) -> dict[str, Path]:
    """Per node, the log of the instance's serial port there."""
    return {node: folder / f"{instance}.log" for node, folder in folders.items()}
