"""What the scheduler reads. Each question is one statement, however many instances there are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import (
    RowMapping,
    Select,
    String,
    and_,
    bindparam,
    case,
    cast,
    exists,
    false,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    union,
)

from evac_common.model.identity import Gen
from evac_common.model.manifest import InstanceManifest
from evac_common.model.states import (
    SUPPORTED_STRATEGIES,
    EvacuationState,
    NodeState,
    Phase,
    PoolKind,
    RunStrategy,
)
from evac_common.store import regress
from evac_common.store.intent import instance_spec, node_spec, node_wish, pool
from evac_common.store.nodes import node_state, proof_node
from evac_common.store.outbox import event
from evac_common.store.placement import (
    evacuation,
    instance_status,
    ownership,
    proof_release,
    reservation,
    scheduler_wish_outcome,
    sighting,
)
from evac_common.store.transaction import Transaction
from evac_scheduler.core.evacuation import Slot
from evac_scheduler.core.facts import Claim, Instance, Proof
from evac_scheduler.core.orders import PoolSource
from evac_scheduler.core.placement import NodeView
from evac_scheduler.core.reports import Speaker

_LATER = ownership.alias("later")
_STRATEGIES: Final = frozenset(strategy.value for strategy in SUPPORTED_STRATEGIES)
_POOL_KINDS: Final = frozenset(kind.value for kind in PoolKind)
_COVERING = proof_node.alias("covering")
_SHOWING = node_spec.alias("showing")

# The first proof that covers a ledger row: proofs are never removed, so it stays the same one.
_COVERS = and_(
    proof_node.c.node_id == ownership.c.node_id,
    proof_node.c.incarnation
    == select(func.min(_COVERING.c.incarnation))
    .where(
        _COVERING.c.node_id == ownership.c.node_id,
        _COVERING.c.incarnation >= ownership.c.incarnation,
    )
    .scalar_subquery(),
)
_RELEASES = and_(
    proof_release.c.instance_id == ownership.c.instance_id,
    proof_release.c.epoch == ownership.c.epoch,
)
_LAST_EPOCH = (
    ownership.c.epoch
    == select(func.max(_LATER.c.epoch))
    .where(_LATER.c.instance_id == ownership.c.instance_id)
    .scalar_subquery()
)
_SHOULD_RUN = and_(
    instance_spec.c.id.is_not(None),
    instance_spec.c.deleted_at.is_(None),
    func.coalesce(instance_spec.c.run_strategy, "") == RunStrategy.ALWAYS.value,
)
_LIVE = and_(
    ownership.c.epoch.is_not(None), proof_release.c.id.is_(None), proof_node.c.id.is_(None)
)


# A living domain of the instance that the ledger does not explain: at least one of them, by node.
_STRANGER = (
    select(
        func.min(
            func.coalesce(_SHOWING.c.name, sighting.c.node_id)
            + literal(" shows epoch ")
            + cast(sighting.c.epoch, String)
        )
    )
    .select_from(sighting.outerjoin(_SHOWING, _SHOWING.c.id == sighting.c.node_id))
    .where(
        sighting.c.instance_id == literal_column("known.id"),
        sighting.c.explained.is_(False),
        regress.LIVING_SIGHTING,
    )
    .scalar_subquery()
)


# A node whose daemon is silent hears no command, though a second channel shows its host alive.
_REACHED_STATE = case(
    (
        and_(node_state.c.state == NodeState.DEGRADED.value, node_state.c.isolated),
        NodeState.SUSPECT.value,
    ),
    else_=node_state.c.state,
)


def _instances() -> Select[Any]:
    """One row per instance that has a record or a status, with everything that decides about it."""
    known = union(select(instance_spec.c.id), select(instance_status.c.instance_id)).subquery(
        "known"
    )
    return select(
        known.c.id,
        instance_spec.c.name,
        instance_spec.c.manifest,
        instance_spec.c.run_strategy,
        instance_spec.c.deleted_at,
        _SHOULD_RUN.label("wanted"),
        instance_status.c.phase,
        instance_status.c.attempts,
        instance_status.c.next_at,
        instance_status.c.reason,
        instance_status.c.changed_at,
        instance_status.c.epoch.label("seen_epoch"),
        instance_status.c.run.label("seen_run"),
        ownership.c.epoch,
        ownership.c.node_id,
        ownership.c.incarnation,
        ownership.c.run,
        proof_release.c.id.label("release_id"),
        proof_node.c.id.label("proof_id"),
        proof_node.c.incarnation.label("proof_incarnation"),
        proof_node.c.kind.label("proof_kind"),
        proof_node.c.created_at.label("proof_created_at"),
        node_spec.c.name.label("node"),
        _REACHED_STATE.label("node_state"),
        node_state.c.term.label("node_term"),
        node_state.c.incarnation.label("node_incarnation"),
        reservation.c.node_id.label("reserved_node_id"),
        _STRANGER.label("stranger"),
    ).select_from(
        known.outerjoin(instance_spec, instance_spec.c.id == known.c.id)
        .outerjoin(instance_status, instance_status.c.instance_id == known.c.id)
        .outerjoin(ownership, and_(ownership.c.instance_id == known.c.id, _LAST_EPOCH))
        .outerjoin(proof_release, _RELEASES)
        .outerjoin(proof_node, _COVERS)
        .outerjoin(node_spec, node_spec.c.id == ownership.c.node_id)
        .outerjoin(node_state, node_state.c.node_id == ownership.c.node_id)
        .outerjoin(reservation, reservation.c.instance_id == known.c.id)
    )


_phase = func.coalesce(instance_status.c.phase, "")
_SETTLED = or_(
    and_(_SHOULD_RUN, _LIVE, _phase == Phase.RUNNING.value),
    and_(
        instance_spec.c.id.is_not(None),
        not_(_SHOULD_RUN),
        not_(_LIVE),
        _phase == Phase.STOPPED.value,
    ),
)

# Asked several times a second, so made once.
_INSTANCES: Final = _instances()
_ATTENTION: Final = _INSTANCES.where(not_(_SETTLED))
_KNOWN: Final = _INSTANCES.where(
    _INSTANCES.selected_columns.id.in_(bindparam("ids", expanding=True))
)
_ANY_WORK: Final = select(
    or_(
        exists(_ATTENTION),
        exists(select(reservation.c.instance_id)),
        exists(select(evacuation.c.id).where(evacuation.c.state == EvacuationState.OPEN.value)),
        exists(
            select(node_wish.c.id).where(
                node_wish.c.verb == "evacuate",
                ~exists().where(scheduler_wish_outcome.c.wish_id == node_wish.c.id),
            )
        ),
    )
)
_SPEAKER: Final = select(node_state.c.state, node_state.c.term, node_state.c.incarnation).where(
    node_state.c.node_id == bindparam("id")
)


def _declared(row: RowMapping) -> tuple[InstanceManifest | None, str]:
    """The manifest, or why it cannot be read: one bad row must not stop everybody's recovery.

    A field that only a later api knows is passed over.
    """
    if row["name"] is None:
        return None, ""
    strategy = row["run_strategy"]
    if strategy not in _STRATEGIES:
        return None, f"run strategy {strategy} is of another version"
    try:
        return InstanceManifest.model_validate(row["manifest"], extra="ignore"), ""
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        return None, f"{where}: {first['msg']}"


def _number(stored: Any, name: str) -> int:
    """Of a manifest that perhaps cannot be read: what can be counted, is."""
    value = stored.get(name) if isinstance(stored, dict) else None
    return value if isinstance(value, int) else 0


def _size(stored: Any) -> tuple[int, int]:
    return _number(stored, "vcpus"), _number(stored, "memory_mib")


def _pools(stored: Any) -> tuple[str, ...]:
    disks = stored.get("disks") if isinstance(stored, dict) else None
    found = [disk.get("pool") for disk in disks or () if isinstance(disk, dict)]
    return tuple(pool for pool in found if isinstance(pool, str))


def _is_halted(row: RowMapping) -> bool:
    return row["deleted_at"] is not None or row["run_strategy"] == RunStrategy.HALTED.value


def _instance(row: RowMapping) -> Instance:
    claim = proof = None
    manifest, unreadable = _declared(row)
    # Of a strategy that cannot be read nobody can say that it means "stop".
    wanted = bool(row["wanted"]) or (bool(unreadable) and not _is_halted(row))
    if row["epoch"] is not None:
        claim = Claim(
            epoch=row["epoch"],
            node_id=row["node_id"],
            node=row["node"] or row["node_id"],
            incarnation=row["incarnation"],
            run=row["run"],
        )
    if row["proof_id"] is not None:
        proof = Proof(
            proof_id=row["proof_id"],
            incarnation=row["proof_incarnation"],
            kind=row["proof_kind"],
            created_at=row["proof_created_at"],
        )
    known = row["node_state"] is not None
    return Instance(
        instance_id=row["id"],
        name=row["name"] or row["id"],
        wanted=wanted,
        manifest=manifest,
        phase=None if row["phase"] is None else Phase(row["phase"]),
        attempts=row["attempts"] or 0,
        next_at=row["next_at"],
        reason=row["reason"] or "",
        changed_at=row["changed_at"],
        seen_epoch=row["seen_epoch"],
        seen_run=row["seen_run"],
        claim=claim,
        release_id=row["release_id"],
        proof=proof,
        node_state=NodeState(row["node_state"]) if known else None,
        node_gen=Gen(row["node_term"], row["node_incarnation"]) if known else None,
        reserved_node_id=row["reserved_node_id"],
        unreadable=unreadable,
        stranger=row["stranger"] or "",
    )


class Reads:
    def __init__(self, tx: Transaction) -> None:
        self.tx = tx

    async def any_work(self) -> bool:
        return bool(await self.tx.scalar(_ANY_WORK))

    async def attention(self) -> list[Instance]:
        rows = await self.tx.rows(_ATTENTION)
        return sorted((_instance(row) for row in rows), key=lambda found: found.priority_key)

    async def known(self, instance_ids: Collection[str]) -> dict[str, Instance]:
        ids = sorted(set(instance_ids))
        if not ids:
            return {}
        rows = await self.tx.rows(_KNOWN, {"ids": ids})
        return {row["id"]: _instance(row) for row in sorted(rows, key=lambda row: row["id"])}

    async def locked(self, instance_ids: Collection[str]) -> dict[str, Instance]:
        ids = sorted(set(instance_ids))
        if not ids:
            return {}
        # In order of ids, so that two replicas never wait for one another. A lock cannot be put on
        # the outer joins of the question itself; READ COMMITTED makes the second statement see what
        # the first waited for.
        await self.tx.execute(
            select(instance_status.c.phase)
            .where(instance_status.c.instance_id.in_(ids))
            .order_by(instance_status.c.instance_id)
            .with_for_update()
        )
        return await self.known(ids)

    async def speaker(self, node_id: str) -> Speaker | None:
        row = await self.tx.row(_SPEAKER, {"id": node_id})
        if row is None:
            return None
        return Speaker(
            node_id=node_id,
            state=NodeState(row["state"]),
            gen=Gen(row["term"], row["incarnation"]),
        )

    async def node_name(self, node_id: str) -> str:
        name = await self.tx.scalar(select(node_spec.c.name).where(node_spec.c.id == node_id))
        return str(name) if name is not None else node_id

    async def enrolled(self) -> list[str]:
        rows = await self.tx.rows(select(node_spec.c.id).order_by(node_spec.c.id))
        return [row["id"] for row in rows]

    async def nodes(self) -> tuple[NodeView, ...]:
        rows = await self.tx.rows(
            select(
                node_spec.c.id,
                node_spec.c.name,
                node_spec.c.vcpus,
                node_spec.c.memory_mib,
                node_spec.c.labels,
                node_spec.c.bridges,
                node_state.c.state,
                node_state.c.term,
                node_state.c.incarnation,
            )
            .select_from(node_spec.outerjoin(node_state, node_state.c.node_id == node_spec.c.id))
            .order_by(node_spec.c.name)
        )
        taken = await self._taken()
        views = []
        for row in rows:
            vcpus, memory_mib = taken.get(row["id"], (0, 0))
            views.append(
                NodeView(
                    node_id=row["id"],
                    name=row["name"],
                    state=NodeState(row["state"] or NodeState.NEW.value),
                    gen=Gen(row["term"] or 0, row["incarnation"] or 0),
                    vcpus=row["vcpus"],
                    memory_mib=row["memory_mib"],
                    vcpus_free=row["vcpus"] - vcpus,
                    memory_mib_free=row["memory_mib"] - memory_mib,
                    labels=row["labels"],
                    bridges=frozenset(row["bridges"]),
                )
            )
        return tuple(views)

    async def _taken(self) -> dict[str, tuple[int, int]]:
        """Owned or booked vCPUs and memory by node. An owner holds its room in every phase."""
        owned = await self.tx.rows(
            select(ownership.c.node_id, instance_spec.c.manifest)
            .select_from(
                ownership.join(instance_spec, instance_spec.c.id == ownership.c.instance_id)
                .outerjoin(proof_release, _RELEASES)
                .outerjoin(proof_node, _COVERS)
            )
            .where(_LAST_EPOCH, _LIVE)
        )
        booked = await self.tx.rows(
            select(
                reservation.c.node_id,
                func.sum(reservation.c.vcpus).label("vcpus"),
                func.sum(reservation.c.memory_mib).label("memory_mib"),
            ).group_by(reservation.c.node_id)
        )
        # Summed here: a manifest that cannot be read would fail the database's own sum.
        sizes = [(row["node_id"], *_size(row["manifest"])) for row in owned]
        # PostgreSQL sums integers to numeric.
        sizes += [(row["node_id"], int(row["vcpus"]), int(row["memory_mib"])) for row in booked]
        taken: dict[str, tuple[int, int]] = {}
        for node_id, vcpus, memory_mib in sizes:
            before = taken.get(node_id, (0, 0))
            taken[node_id] = (before[0] + vcpus, before[1] + memory_mib)
        return taken

    async def pools(self) -> dict[str, PoolSource]:
        rows = await self.tx.rows(
            select(pool.c.name, pool.c.kind, pool.c.source, pool.c.nodes).order_by(pool.c.name)
        )
        return {
            row["name"]: PoolSource(
                name=row["name"],
                kind=PoolKind(row["kind"]),
                source=row["source"],
                nodes=frozenset(row["nodes"]),
            )
            for row in rows
            if row["kind"] in _POOL_KINDS  # of a later api: who needs it waits for that pool
        }

    async def starting(self) -> list[Slot]:
        rows = await self.tx.rows(
            select(ownership.c.instance_id, ownership.c.node_id, instance_spec.c.manifest)
            .select_from(
                instance_status.join(
                    ownership, ownership.c.instance_id == instance_status.c.instance_id
                )
                .outerjoin(instance_spec, instance_spec.c.id == ownership.c.instance_id)
                .outerjoin(proof_release, _RELEASES)
                .outerjoin(proof_node, _COVERS)
            )
            .where(instance_status.c.phase == Phase.STARTING.value, _LAST_EPOCH, _LIVE)
            .order_by(ownership.c.instance_id)
        )
        return [
            Slot(
                instance_id=row["instance_id"],
                node_id=row["node_id"],
                pools=_pools(row["manifest"]),
            )
            for row in rows
        ]

    async def announced(self, name: str, subjects: Collection[str]) -> set[tuple[str, str, int]]:
        ids = sorted(set(subjects))
        rows = await self.tx.rows(
            select(event.c.subject, event.c.body).where(
                event.c.name == name, event.c.subject.in_(ids) if ids else false()
            )
        )
        return {(row["subject"], row["body"]["node_id"], row["body"]["epoch"]) for row in rows}
