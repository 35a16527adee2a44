"""Commands as they go out: everything a node needs to build the domain, resolved."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from evac_common.messages import commands
from evac_common.model.identity import Gen
from evac_common.model.manifest import InstanceManifest, volume_name
from evac_common.model.states import PoolKind
from evac_scheduler.core.facts import Claim, Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSource:
    """Where a pool is, in the terms of its kind, and who reaches it."""

    name: str
    kind: PoolKind
    source: str
    nodes: frozenset[str]


def mac_of(instance_id: str, index: int) -> str:
    """The address of a network card declared without one: the same wherever it runs."""
    digest = hashlib.sha256(f"{instance_id}/{index}".encode()).hexdigest()
    return f"52:54:00:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}"


def missing_pool(manifest: InstanceManifest, pools: Mapping[str, PoolSource]) -> str | None:
    """A pool that the manifest names and nobody declares: such an instance cannot be started."""
    return next((disk.pool for disk in manifest.disks if disk.pool not in pools), None)


def spec_of(
    instance_id: str, name: str, manifest: InstanceManifest, pools: Mapping[str, PoolSource]
) -> commands.InstanceSpec:
    """The resolved manifest. Every pool must be known (`missing_pool`)."""
    return commands.InstanceSpec(
        name=name,
        vcpus=manifest.vcpus,
        memory_mib=manifest.memory_mib,
        disks=[
            commands.DiskSpec(
                pool_kind=pools[disk.pool].kind,
                source=pools[disk.pool].source,
                volume=volume_name(name, index, disk),
                format=disk.format,
                shareable=disk.shareable,
            )
            for index, disk in enumerate(manifest.disks)
        ],
        nics=[
            commands.NicSpec(bridge=nic.bridge, mac=nic.mac or mac_of(instance_id, index))
            for index, nic in enumerate(manifest.nics)
        ],
    )


def start(
    instance: Instance,
    claim: Claim,
    gen: Gen,
    *,
    command_id: str,
    issued_at: datetime,
    deadline: datetime,
    pools: Mapping[str, PoolSource],
) -> commands.Start:
    assert instance.manifest is not None, "an instance without a record is never started"
    return commands.Start(
        node_id=claim.node_id,
        command_id=command_id,
        term=gen.term,
        incarnation=gen.incarnation,
        instance_id=instance.instance_id,
        epoch=claim.epoch,
        run=claim.run,
        issued_at=issued_at,
        deadline=deadline,
        spec=spec_of(instance.instance_id, instance.name, instance.manifest, pools),
    )


def stop(
    instance_id: str, claim: Claim, gen: Gen, *, command_id: str, grace_s: float
) -> commands.Stop:
    return commands.Stop(
        node_id=claim.node_id,
        command_id=command_id,
        term=gen.term,
        incarnation=gen.incarnation,
        instance_id=instance_id,
        epoch=claim.epoch,
        grace_s=grace_s,
    )


def destroy(
    instance_id: str, epoch: int, node_id: str, gen: Gen, *, command_id: str
) -> commands.Destroy:
    """Ends domains of epochs up to `epoch` on that node: never the present owner's epoch."""
    return commands.Destroy(
        node_id=node_id,
        command_id=command_id,
        term=gen.term,
        incarnation=gen.incarnation,
        instance_id=instance_id,
        epoch=epoch,
    )
