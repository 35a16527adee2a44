"""Nodes: enrolment, wishes about them, forgetting them, and what is known of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, Select, delete, func, insert, select, update

from evac_api.adapters import reads, work
from evac_api.adapters.secrets import seal
from evac_api.core import apply, views
from evac_api.core.refusals import Conflict, NotFound
from evac_api.core.verbs import NodeVerb, forget_refusal, refusal
from evac_api.ports import Answer, Caller
from evac_common.bus import topology
from evac_common.bus.admin import BrokerAdmin
from evac_common.bus.port import Bus
from evac_common.messages import events
from evac_common.model.identity import node_user
from evac_common.model.manifest import NodeManifest
from evac_common.model.states import NodeState
from evac_common.service.secrets import SecretBox
from evac_common.store import intent, nodes, placement
from evac_common.store.engine import Store
from evac_common.store.transaction import Transaction


class StoredNodes:
    """`ports.Nodes` on the database and the broker."""

    def __init__(
        self, store: Store, bus: Bus, admin: BrokerAdmin, secrets: SecretBox | None, bus_url: str
    ) -> None:
        self._store = store
        self._bus = bus
        self._admin = admin
        self._secrets = secrets
        self._administering = asyncio.Lock()  # commands for a person belong to one request
        self._bus_url = bus_url  # what nodes are told; without user and password

    async def page(self, *, after: str, limit: int) -> views.Page[views.NodeView]:
        async with self._store.read() as tx:
            query = _nodes().where(intent.node_spec.c.name > after).limit(limit + 1)
            items = await _views(tx, await tx.rows(query))
        more = len(items) > limit
        return views.Page(items=items[:limit], next=items[limit - 1].name if more else None)

    async def show(self, name: str) -> views.NodeView:
        async with self._store.read() as tx:
            return await show(tx, name)

    async def enrol(self, caller: Caller, name: str, node: NodeManifest) -> Answer:
        """Broker first, then the database: a user that no node_spec names can do no harm.

        The other way round, an enrolled node might have no queue.
        """
        async with self._store.read() as tx:
            known = await work.answered(tx, caller)
            if known is not None:
                return known
            await _name_is_free(tx, name)
        sealed = seal(self._secrets, node.power.password.get_secret_value() if node.power else "")
        node_id = self._store.clock.new_id()
        async with self._administering:
            secret = await self._admin.create_node_user(node_id)
            commands = self._admin.take_commands()
        await self._bus.declare([topology.command_queue(node_id)])

        async def step(tx: Transaction) -> Answer:
            await _name_is_free(tx, name)
            await tx.execute(
                insert(intent.node_spec).values(
                    id=node_id,
                    name=name,
                    vcpus=node.vcpus,
                    memory_mib=node.memory_mib,
                    labels=dict(node.labels),
                    bridges=list(node.bridges),
                    dmi_uuid=node.dmi_uuid,
                    power=apply.power_values(node),
                    power_secret=sealed,
                    generation=1,
                    created_at=tx.now,
                    updated_at=tx.now,
                )
            )
            await tx.emit(events.NodeEnrolled(node_id=node_id, node=name))
            await tx.emit(events.NodeIntent(node_id=node_id, node=name, verb="enrol"))
            await tx.audit(
                actor=caller.actor, action="node.enrol", subject=node_id, reason=f"enrolled {name}"
            )
            credentials = views.Credentials(
                node_id=node_id,
                name=name,
                bus_url=self._bus_url,
                user=node_user(node_id),
                secret=secret,
            )
            view = views.Enrolled(
                node=await show(tx, name), credentials=credentials, commands=list(commands)
            )
            return Answer(
                status=201,
                body=view.model_dump(mode="json"),
                location=f"/v1/nodes/{name}",
                generation=1,
            )

        return await work.once(self._store, caller, step, handed_out="credentials.secret")

    async def wish(self, caller: Caller, name: str, verb: NodeVerb, reason: str) -> Answer:
        async def step(tx: Transaction) -> Answer:
            row = await _row(tx, name)
            refused = refusal(verb, name, NodeState(row["state"] or NodeState.NEW))
            if refused is not None:
                raise Conflict(refused.why, hint=refused.hint)
            wish_id = tx.clock.new_id()
            operation = await work.open_operation(
                tx,
                caller,
                verb=f"node.{verb.value}",
                target_kind="node",
                target_id=row["id"],
                target=name,
                reason=reason,
                wish_id=wish_id,
            )
            await tx.execute(
                insert(intent.node_wish).values(
                    id=wish_id,
                    node_id=row["id"],
                    verb=verb.value,
                    actor=caller.actor,
                    reason=reason,
                    operation_id=operation.id,
                    created_at=tx.now,
                )
            )
            await tx.emit(
                events.NodeIntent(node_id=row["id"], node=name, verb=verb.value, why=reason)
            )
            await tx.audit(
                actor=caller.actor,
                action=f"wish.{verb.value}",
                subject=row["id"],
                reason=reason,
                detail={"operation_id": operation.id, "state": row["state"]},
            )
            return work.accepted(operation)

        return await work.once(self._store, caller, step)

    async def forget(self, caller: Caller, name: str, generation: int | None) -> Answer:
        """Broker first: if the database fails then, forgetting again ends it.

        The other way round, a queue and a user would stay that nobody knows of.
        """
        async with self._store.read() as tx:
            known = await work.answered(tx, caller)
            if known is not None:
                return known
            node_id = (await _forgettable(tx, name, generation))["id"]
        async with self._administering:
            await self._admin.delete_node_user(node_id)
            commands = self._admin.take_commands()
        await self._bus.delete_queue(topology.command_queue(node_id).name)

        async def step(tx: Transaction) -> Answer:
            row = await _forgettable(tx, name, generation)
            await _leave_pools(tx, row["id"])
            await tx.execute(delete(intent.node_spec).where(intent.node_spec.c.id == row["id"]))
            await tx.emit(events.NodeForgotten(node_id=row["id"], node=name))
            await tx.emit(events.NodeIntent(node_id=row["id"], node=name, verb="forget"))
            await tx.audit(
                actor=caller.actor, action="node.forget", subject=row["id"], reason=f"forgot {name}"
            )
            view = views.Forgotten(name=name, commands=list(commands))
            return Answer(status=200, body=view.model_dump(mode="json"))

        return await work.once(self._store, caller, step)


async def _forgettable(tx: Transaction, name: str, generation: int | None) -> RowMapping:
    row = await _row(tx, name)
    work.check_generation(row, generation)
    refused = refusal(NodeVerb.FORGET, name, NodeState(row["state"] or NodeState.NEW))
    refused = refused or forget_refusal(
        name, owns=row["instances"], open_items=await _open_items(tx, row["id"])
    )
    if refused is not None:
        raise Conflict(refused.why, hint=refused.hint)
    return row


def _nodes() -> Select[Any]:
    """Specs with the monitor's view, and what the ledger says they hold."""
    spec, state, facts = intent.node_spec, nodes.node_state, nodes.node_facts
    held = reads.holding()
    count = (
        select(func.count())
        .select_from(held)
        .where(held.c.node_id == spec.c.id)
        .scalar_subquery()
        .label("instances")
    )
    return (
        select(
            spec,
            state.c.state,
            state.c.reason,
            state.c.since,
            state.c.heard_at,
            state.c.incarnation,
            state.c.term,
            state.c.decision,
            state.c.troubles,
            state.c.isolated,
            facts.c.dmi_uuid.label("dmi_seen"),
            facts.c.hypervisor,
            facts.c.daemon_version,
            count,
        )
        .outerjoin(state, state.c.node_id == spec.c.id)
        .outerjoin(facts, facts.c.node_id == spec.c.id)
        .order_by(spec.c.name)
    )


async def _row(tx: Transaction, name: str) -> RowMapping:
    row = await tx.row(_nodes().where(intent.node_spec.c.name == name))
    if row is None:
        raise NotFound("node", name)
    return row


async def show(tx: Transaction, name: str) -> views.NodeView:
    return (await _views(tx, [await _row(tx, name)]))[0]


async def _views(tx: Transaction, rows: Sequence[RowMapping]) -> list[views.NodeView]:
    used = await _used(tx, [row["id"] for row in rows])
    return [_view(row, used.get(row["id"], (0, 0))) for row in rows]


async def _used(tx: Transaction, node_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Virtual CPUs and MiB that each node's instances take, by the ledger."""
    held, spec = reads.holding(), intent.instance_spec
    used: dict[str, tuple[int, int]] = {}
    for ids in reads.chunks(node_ids):
        query = (
            select(held.c.node_id, spec.c.manifest)
            .join(spec, spec.c.id == held.c.instance_id)
            .where(held.c.node_id.in_(ids))
        )
        for row in await tx.rows(query):
            vcpus, memory_mib = used.get(row["node_id"], (0, 0))
            manifest = row["manifest"]
            used[row["node_id"]] = (vcpus + manifest["vcpus"], memory_mib + manifest["memory_mib"])
    return used


def _view(row: RowMapping, used: tuple[int, int]) -> views.NodeView:
    power = row["power"]
    return views.NodeView(
        id=row["id"],
        name=row["name"],
        vcpus=row["vcpus"],
        memory_mib=row["memory_mib"],
        labels=row["labels"],
        bridges=row["bridges"],
        dmi_uuid=row["dmi_uuid"] or row["dmi_seen"],
        power=views.PowerView(**power, has_password=row["power_secret"] is not None)
        if power
        else None,
        generation=row["generation"],
        state=NodeState(row["state"] or NodeState.NEW),
        reason=row["reason"] or "enrolled; its daemon has not registered yet",
        troubles=[views.TroubleView(**trouble) for trouble in row["troubles"] or []],
        isolated=bool(row["isolated"]),
        since=row["since"] or row["created_at"],
        heard_at=row["heard_at"],
        incarnation=row["incarnation"] or 0,
        term=row["term"] or 0,
        gates=[views.GateView(**_gate(gate)) for gate in row["decision"] or []],
        instances=row["instances"],
        vcpus_used=used[0],
        memory_mib_used=used[1],
        hypervisor=row["hypervisor"] or "",
        daemon_version=row["daemon_version"] or "",
    )


def _gate(gate: Any) -> dict[str, Any]:
    return {"gate": str(gate["gate"]), "open": bool(gate["open"]), "why": str(gate["why"])}


async def _name_is_free(tx: Transaction, name: str) -> None:
    spec = intent.node_spec
    if await tx.scalar(select(spec.c.id).where(spec.c.name == name)) is not None:
        raise Conflict(f"a node named {name} is enrolled", hint=f"`evac node show {name}`")


async def _open_items(tx: Transaction, node_id: str) -> int:
    item, evacuation = placement.evacuation_item, placement.evacuation
    query = (
        select(func.count())
        .select_from(item.join(evacuation, evacuation.c.id == item.c.evacuation_id))
        .where(evacuation.c.node_id == node_id, item.c.state.not_in(["done", "cancelled"]))
    )
    return int(await tx.scalar(query))


async def _leave_pools(tx: Transaction, node_id: str) -> None:
    pool = intent.pool
    for row in await tx.rows(select(pool.c.id, pool.c.nodes).order_by(pool.c.name)):
        if node_id in row["nodes"]:
            rest = [other for other in row["nodes"] if other != node_id]
            await tx.execute(
                update(pool)
                .where(pool.c.id == row["id"])
                .values(nodes=rest, generation=pool.c.generation + 1, updated_at=tx.now)
            )
