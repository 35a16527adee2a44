"""What an apply document would change, or every reason why it may not.

Facts in (the document, what is stored), a plan out; the plan leaves its executor no choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from evac_api.core.records import InstanceRecord, NodeRecord, PoolRecord
from evac_api.core.refusals import Violation
from evac_common.model.manifest import (
    ApplyDocument,
    InstanceManifest,
    NodeManifest,
    PoolManifest,
    volume_name,
)
from evac_common.model.states import SUPPORTED_STRATEGIES


class Verdict(StrEnum):
    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Holder:
    """An instance that has a volume, alone or shared."""

    instance: str
    shareable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """What is stored that the document names or refers to."""

    nodes: Mapping[str, NodeRecord]
    pools: Mapping[str, PoolRecord]
    instances: Mapping[str, InstanceRecord]
    pool_users: Mapping[str, Sequence[str]]  # pool → instances with a disk in it, not being deleted
    volumes: Mapping[tuple[str, str], Holder]  # (pool, volume) → who of the others has it
    passwords: Mapping[str, str]  # node → its BMC password, of nodes that the document gives one


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNode:
    record: NodeRecord
    values: Mapping[str, Any]
    password: str | None  # to be stored; None: the stored one stays
    drop_password: bool
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPool:
    name: str
    record: PoolRecord | None
    values: Mapping[str, Any]
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedInstance:
    name: str
    record: InstanceRecord | None
    manifest: InstanceManifest
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    nodes: tuple[PlannedNode, ...]
    pools: tuple[PlannedPool, ...]
    instances: tuple[PlannedInstance, ...]

    def names(self, verdict: Verdict) -> dict[str, list[str]]:
        return {
            "nodes": [item.record.name for item in self.nodes if item.verdict is verdict],
            "pools": [item.name for item in self.pools if item.verdict is verdict],
            "instances": [item.name for item in self.instances if item.verdict is verdict],
        }


def plan(document: ApplyDocument, existing: Existing) -> Plan | list[Violation]:
    """The changes, in the order of names; or all violations, in the order of the document."""
    found: list[Violation] = []
    nodes = [
        planned
        for name, node in sorted(document.nodes.items())
        if (planned := _node(name, node, existing, found)) is not None
    ]
    pools = [_pool(name, pool, existing, found) for name, pool in sorted(document.pools.items())]
    pools_known = {*document.pools, *existing.pools}
    taken = dict(existing.volumes)
    instances = []
    for name, instance in sorted(document.instances.items()):
        _check_instance(name, instance, pools_known, taken, found)
        instances.append(_instance(name, instance, existing, found))
    if found:
        return found
    return Plan(nodes=tuple(nodes), pools=tuple(pools), instances=tuple(instances))


def _node(
    name: str, node: NodeManifest, existing: Existing, found: list[Violation]
) -> PlannedNode | None:
    record = existing.nodes.get(name)
    if record is None:
        rule = f"is not enrolled: enrol first (`evac node enrol {name} ...`)"
        found.append(Violation(field=f"nodes.{name}", value=name, rule=rule))
        return None
    values: dict[str, Any] = {
        "vcpus": node.vcpus,
        "memory_mib": node.memory_mib,
        "labels": dict(node.labels),
        "bridges": list(node.bridges),
    }
    # A manifest in a repository carries no secrets or serial numbers: what it leaves out stays.
    if "dmi_uuid" in node.model_fields_set:
        values["dmi_uuid"] = node.dmi_uuid
    password = None
    if "power" in node.model_fields_set:
        values["power"] = power_values(node)
        given = node.power.password.get_secret_value() if node.power else ""
        password = given if given and given != existing.passwords.get(name) else None
    drop_password = "power" in values and values["power"] is None and record.power is not None
    same = (
        password is None
        and not drop_password
        and all(_plain(getattr(record, key)) == value for key, value in values.items())
    )
    return PlannedNode(
        record=record,
        values=values,
        password=password,
        drop_password=drop_password,
        verdict=Verdict.UNCHANGED if same else Verdict.CHANGED,
    )


def power_values(node: NodeManifest) -> dict[str, Any] | None:
    """What is stored of a BMC's address; the password is stored apart, encrypted."""
    if node.power is None:
        return None
    return node.power.model_dump(mode="json", exclude={"password"}, exclude_none=True)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _pool(name: str, pool: PoolManifest, existing: Existing, found: list[Violation]) -> PlannedPool:
    ids: list[str] = []
    for index, node in enumerate(pool.nodes):
        field = f"pools.{name}.nodes[{index}]"
        if node in pool.nodes[:index]:
            found.append(Violation(field=field, value=node, rule="is given twice"))
        elif node not in existing.nodes:
            found.append(Violation(field=field, value=node, rule="no such node: enrol first"))
        else:
            ids.append(existing.nodes[node].id)
    values: dict[str, Any] = {
        "kind": pool.kind.value,
        "source": pool.source,
        "lock_scope": pool.lock_scope.value,
        "nodes": ids,
    }
    record = existing.pools.get(name)
    if record is None:
        return PlannedPool(name=name, record=None, values=values, verdict=Verdict.CREATED)
    users = existing.pool_users.get(name, ())
    for key in ("kind", "source", "lock_scope"):
        if users and getattr(record, key) != values[key]:
            rule = f"cannot change while instances have disks in it ({_some(users)})"
            found.append(Violation(field=f"pools.{name}.{key}", value=values[key], rule=rule))
    same = all(_plain(getattr(record, key)) == value for key, value in values.items())
    verdict = Verdict.UNCHANGED if same else Verdict.CHANGED
    return PlannedPool(name=name, record=record, values=values, verdict=verdict)


def _check_instance(
    name: str,
    instance: InstanceManifest,
    pools: set[str],
    taken: dict[tuple[str, str], Holder],
    found: list[Violation],
) -> None:
    path = f"instances.{name}"
    if instance.run_strategy not in SUPPORTED_STRATEGIES:
        known = " and ".join(strategy.value for strategy in SUPPORTED_STRATEGIES)
        found.append(
            Violation(
                field=f"{path}.run_strategy",
                value=instance.run_strategy.value,
                rule=f"only {known} are supported by this version",
            )
        )
    for index, disk in enumerate(instance.disks):
        field = f"{path}.disks[{index}]"
        if disk.pool not in pools:
            found.append(Violation(field=f"{field}.pool", value=disk.pool, rule="no such pool"))
            continue
        volume = volume_name(name, index, disk)
        holder = taken.setdefault((disk.pool, volume), Holder(name, disk.shareable))
        if holder.instance != name and not (holder.shareable and disk.shareable):
            rule = f"is a disk of {holder.instance}; only what both call `shareable` may be shared"
            found.append(Violation(field=f"{field}.volume", value=volume, rule=rule))


def _instance(
    name: str, instance: InstanceManifest, existing: Existing, found: list[Violation]
) -> PlannedInstance:
    record = existing.instances.get(name)
    if record is None:
        return PlannedInstance(name=name, record=None, manifest=instance, verdict=Verdict.CREATED)
    if record.deleted_at is not None:
        rule = "is being deleted; wait until it is gone"
        found.append(Violation(field=f"instances.{name}", value=name, rule=rule))
    verdict = Verdict.UNCHANGED if record.manifest == instance else Verdict.CHANGED
    return PlannedInstance(name=name, record=record, manifest=instance, verdict=verdict)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
