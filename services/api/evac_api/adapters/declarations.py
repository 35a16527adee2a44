"""Apply and delete documents: everything in one transaction, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping, Table, insert, select, update

from evac_api.adapters import instances, nodes, pools, reads, work
from evac_api.adapters.secrets import seal, unsealed
from evac_api.core import views
from evac_api.core.apply import (
    Existing,
    Holder,
    Plan,
    PlannedInstance,
    PlannedNode,
    PlannedPool,
    Verdict,
    plan,
)
from evac_api.core.records import InstanceRecord, NodeRecord, PoolRecord
from evac_api.core.refusals import Conflict, Invalid
from evac_api.ports import Answer, Caller
from evac_common.messages import events
from evac_common.model.manifest import ApplyDocument, Disk, InstanceManifest, volume_name
from evac_common.service.secrets import SecretBox
from evac_common.store import intent
from evac_common.store.engine import Store
from evac_common.store.transaction import Transaction


class StoredDeclarations:
    """`ports.Declarations` on the database."""

    def __init__(self, store: Store, secrets: SecretBox | None) -> None:
        self._store = store
        self._secrets = secrets

    async def apply(self, caller: Caller, document: ApplyDocument) -> Answer:
        async def step(tx: Transaction) -> Answer:
            planned = await self._apply(tx, caller, document)
            applied = views.Applied(
                created=planned.names(Verdict.CREATED),
                changed=planned.names(Verdict.CHANGED),
                unchanged=planned.names(Verdict.UNCHANGED),
            )
            return Answer(status=200, body=applied.model_dump(mode="json"))

        return await work.once(self._store, caller, step)

    async def create(self, caller: Caller, document: ApplyDocument) -> Answer:
        async def step(tx: Transaction) -> Answer:
            kind, name, row = await _only(tx, document)
            if row is not None:
                raise Conflict(
                    f"{_word(kind)} {name} exists", hint=f"`evac {_word(kind)} show {name}`"
                )
            await self._apply(tx, caller, document)
            return await _shown(tx, kind, name, status=201)

        return await work.once(self._store, caller, step)

    async def replace(
        self, caller: Caller, document: ApplyDocument, generation: int | None
    ) -> Answer:
        async def step(tx: Transaction) -> Answer:
            kind, name, row = await _only(tx, document)
            work.check_generation(row, generation)
            await self._apply(tx, caller, document)
            return await _shown(tx, kind, name, status=200 if row is not None else 201)

        return await work.once(self._store, caller, step)

    async def delete(self, caller: Caller, names: Mapping[str, Sequence[str]]) -> Answer:
        async def step(tx: Transaction) -> Answer:
            body = await _delete(tx, caller, names)
            return Answer(status=202, body=body.model_dump(mode="json"))

        return await work.once(self._store, caller, step)

    async def _apply(self, tx: Transaction, caller: Caller, document: ApplyDocument) -> Plan:
        existing = await self._existing(tx, document)
        planned = plan(document, existing)
        if isinstance(planned, list):
            raise Invalid(planned)
        for node in planned.nodes:
            if node.verdict is Verdict.CHANGED:
                await self._change_node(tx, caller, node)
        for pool in planned.pools:
            if pool.verdict is not Verdict.UNCHANGED:
                await _write_pool(tx, caller, pool)
        await _write_instances(tx, caller, planned.instances)
        return planned

    async def _existing(self, tx: Transaction, document: ApplyDocument) -> Existing:
        wanted_nodes = {*document.nodes, *(n for p in document.pools.values() for n in p.nodes)}
        wanted_pools = {
            *document.pools,
            *(disk.pool for item in document.instances.values() for disk in item.disks),
        }
        node_rows = await _by_name(tx, intent.node_spec, wanted_nodes)
        volumes: dict[tuple[str, str], Holder] = {}
        users: dict[str, list[str]] = {}
        if document.pools:
            users = await pools.users(tx)
        if any(item.disks for item in document.instances.values()):
            volumes = await _volumes(tx, besides=frozenset(document.instances))
        return Existing(
            nodes={row["name"]: _node_record(row) for row in node_rows},
            pools={
                row["name"]: _pool_record(row)
                for row in await _by_name(tx, intent.pool, wanted_pools)
            },
            instances={
                row["name"]: _instance_record(row)
                for row in await _by_name(tx, intent.instance_spec, set(document.instances))
            },
            pool_users=users,
            volumes=volumes,
            passwords=self._passwords(document, node_rows),
        )

    def _passwords(self, document: ApplyDocument, rows: Sequence[RowMapping]) -> dict[str, str]:
        """The stored passwords of nodes that the document gives one: does it differ?"""
        found: dict[str, str] = {}
        for row in rows:
            given = document.nodes.get(row["name"])
            if given is None or given.power is None or row["power_secret"] is None:
                continue
            stored = unsealed(self._secrets, row["power_secret"])
            if stored is not None:
                found[row["name"]] = stored
        return found

    async def _change_node(self, tx: Transaction, caller: Caller, node: PlannedNode) -> None:
        values: dict[str, Any] = dict(node.values)
        if node.password is not None:
            values["power_secret"] = seal(self._secrets, node.password)
        elif node.drop_password:
            values["power_secret"] = None
        spec, record = intent.node_spec, node.record
        await tx.execute(
            update(spec)
            .where(spec.c.id == record.id)
            .values(**values, generation=spec.c.generation + 1, updated_at=tx.now)
        )
        await tx.emit(events.NodeIntent(node_id=record.id, node=record.name, verb="apply"))
        await tx.audit(
            actor=caller.actor,
            action="node.apply",
            subject=record.id,
            reason=f"changed node {record.name}",
            detail={"changed": sorted(node.values)},
        )


async def _write_pool(tx: Transaction, caller: Caller, pool: PlannedPool) -> None:
    table = intent.pool
    if pool.record is None:
        pool_id = tx.clock.new_id()
        await tx.execute(
            insert(table).values(
                id=pool_id,
                name=pool.name,
                **pool.values,
                generation=1,
                created_at=tx.now,
                updated_at=tx.now,
            )
        )
    else:
        pool_id = pool.record.id
        await tx.execute(
            update(table)
            .where(table.c.id == pool_id)
            .values(**pool.values, generation=table.c.generation + 1, updated_at=tx.now)
        )
    await tx.audit(
        actor=caller.actor,
        action="pool.apply",
        subject=pool_id,
        reason=f"{pool.verdict.value} pool {pool.name}",
        detail=dict(pool.values),
    )


async def _write_instances(
    tx: Transaction, caller: Caller, planned: Sequence[PlannedInstance]
) -> None:
    spec = intent.instance_spec
    created: list[dict[str, Any]] = []
    touched: list[tuple[str, PlannedInstance]] = []
    for item in planned:
        if item.verdict is Verdict.UNCHANGED:
            continue
        values = {
            "manifest": item.manifest.model_dump(mode="json"),
            "run_strategy": item.manifest.run_strategy.value,
            "priority": item.manifest.priority,
            "updated_at": tx.now,
        }
        if item.record is None:
            instance_id = tx.clock.new_id()
            created.append(
                {
                    "id": instance_id,
                    "name": item.name,
                    **values,
                    "generation": 1,
                    "created_at": tx.now,
                }
            )
        else:
            instance_id = item.record.id
            await tx.execute(
                update(spec)
                .where(spec.c.id == instance_id)
                .values(**values, generation=spec.c.generation + 1)
            )
        touched.append((instance_id, item))
    for rows in reads.chunks(created):
        await tx.execute(insert(spec), rows)
    for instance_id, item in touched:
        await tx.emit(
            events.InstanceIntent(
                instance_id=instance_id,
                instance=item.name,
                run_strategy=item.manifest.run_strategy,
                why=f"{item.verdict.value} by {caller.actor}",
            )
        )
        await tx.audit(
            actor=caller.actor,
            action="instance.apply",
            subject=instance_id,
            reason=f"{item.verdict.value} instance {item.name}",
            detail={"run_strategy": item.manifest.run_strategy.value},
        )


async def _delete(
    tx: Transaction, caller: Caller, names: Mapping[str, Sequence[str]]
) -> views.Deleted:
    """Instances first: a pool may go in the same document as the last instances that use it."""
    spec, pool = intent.instance_spec, intent.pool
    found = {row["name"]: row for row in await _by_name(tx, spec, set(names["instances"]))}
    operations = [await instances.mark_deleted(tx, caller, found[name]) for name in sorted(found)]
    pool_rows = {row["name"]: row for row in await _by_name(tx, pool, set(names["pools"]))}
    used = await pools.users(tx) if pool_rows else {}
    for name in sorted(pool_rows):
        await pools.remove(tx, caller, pool_rows[name], used.get(name, []))
    why = "a document never removes nodes; `evac node forget` does"
    return views.Deleted(
        deleted={"pools": sorted(pool_rows), "instances": sorted(found)},
        absent={
            "pools": sorted({*names["pools"]} - {*pool_rows}),
            "instances": sorted({*names["instances"]} - {*found}),
        },
        kept={"nodes": [views.Kept(name=name, why=why) for name in sorted(names["nodes"])]},
        operations=operations,
    )


async def _by_name(tx: Transaction, table: Table, names: set[str]) -> list[RowMapping]:
    rows: list[RowMapping] = []
    for some in reads.chunks(sorted(names)):
        query = select(table).where(table.c.name.in_(some)).order_by(table.c.name)
        rows += await tx.rows(query.with_for_update())
    return rows


async def _volumes(tx: Transaction, *, besides: frozenset[str]) -> dict[tuple[str, str], Holder]:
    """Who has which volume, of all instances that the document does not declare anew."""
    spec = intent.instance_spec
    found: dict[tuple[str, str], Holder] = {}
    for row in await tx.rows(select(spec.c.name, spec.c.manifest).order_by(spec.c.name)):
        if row["name"] in besides:
            continue
        for index, values in enumerate(row["manifest"]["disks"]):
            disk = Disk.model_validate(values)
            key = (disk.pool, volume_name(row["name"], index, disk))
            found.setdefault(key, Holder(row["name"], disk.shareable))
    return found


async def _only(tx: Transaction, document: ApplyDocument) -> tuple[str, str, RowMapping | None]:
    """The one resource of a document: section, name, and its row if it is stored."""
    table: Table
    if document.nodes:
        kind, name, table = "nodes", next(iter(document.nodes)), intent.node_spec
    elif document.pools:
        kind, name, table = "pools", next(iter(document.pools)), intent.pool
    else:
        kind, name, table = "instances", next(iter(document.instances)), intent.instance_spec
    return kind, name, await tx.row(select(table).where(table.c.name == name).with_for_update())


async def _shown(tx: Transaction, kind: str, name: str, *, status: int) -> Answer:
    view: views.NodeView | views.PoolView | views.InstanceView
    match kind:
        case "nodes":
            view = await nodes.show(tx, name)
        case "pools":
            view = await pools.show(tx, name)
        case _:
            view = await instances.show(tx, name)
    return Answer(
        status=status,
        body=view.model_dump(mode="json"),
        location=f"/v1/{kind}/{name}" if status == 201 else None,
        generation=view.generation,
    )


def _word(kind: str) -> str:
    return kind.removesuffix("s")


def _node_record(row: RowMapping) -> NodeRecord:
    return NodeRecord(
        id=row["id"],
        name=row["name"],
        vcpus=row["vcpus"],
        memory_mib=row["memory_mib"],
        labels=row["labels"],
        bridges=tuple(row["bridges"]),
        dmi_uuid=row["dmi_uuid"],
        power=row["power"],
        generation=row["generation"],
    )


def _pool_record(row: RowMapping) -> PoolRecord:
    return PoolRecord(
        id=row["id"],
        name=row["name"],
        kind=row["kind"],
        source=row["source"],
        lock_scope=row["lock_scope"],
        nodes=tuple(row["nodes"]),
        generation=row["generation"],
    )


def _instance_record(row: RowMapping) -> InstanceRecord:
    return InstanceRecord(
        id=row["id"],
        name=row["name"],
        manifest=InstanceManifest.model_validate(row["manifest"]),
        generation=row["generation"],
        deleted_at=row["deleted_at"],
    )
