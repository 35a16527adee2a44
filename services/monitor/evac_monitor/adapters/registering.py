"""Registrations: one transaction from the report to the session in the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import RowMapping, and_, delete, exists, func, insert, or_, select

from evac_common.messages import events
from evac_common.messages.codec import Envelope, encode
from evac_common.messages.commands import Session
from evac_common.messages.reports import Registered, SessionApplied
from evac_common.model.states import NodeState, ProofKind
from evac_common.store import intent, nodes, outbox, placement
from evac_common.store.transaction import Transaction
from evac_monitor.adapters import attempts, recovering, rows, wishes
from evac_monitor.core import registration
from evac_monitor.core.states import On
from evac_monitor.ports import Flags, Handled, NodeRow

_SQL_LIST_MAX = 500  # ids in one IN (...)
REMIND_S = 15.0  # a session is applied in seconds; the node answers the same one again


async def register(tx: Transaction, report: Registered) -> Handled:
    """Decide about a registration and carry it out."""
    node, flags = await rows.find_node(tx, report.node_id), await rows.read_flags(tx)
    if node is None or flags is None:
        enrolled = await tx.scalar(
            select(intent.node_spec.c.id).where(intent.node_spec.c.id == report.node_id)
        )
        why = "enrolled, its state is not made yet" if enrolled else "the node is not enrolled"
        return Handled(changed=False, why=why)
    recorded = registration.Recorded(
        node_id=node.node_id,
        state=node.state,
        term=node.term,
        incarnation=node.incarnation,
        dmi_uuid=node.dmi_uuid,
        boot_id=await _boot_id(tx, node.node_id),
        proven_incarnation=await _proven(tx, node.node_id),
    )
    told = registration.Told(
        incarnation=report.incarnation,
        dmi_uuid=report.dmi_uuid,
        boot_id=report.boot_id,
        inventory=[
            registration.Domain(instance_id=seen.instance_id, epoch=seen.epoch)
            for seen in report.inventory
        ],
    )
    owners = await _owners(tx, node.node_id, [seen.instance_id for seen in report.inventory])
    decision = registration.decide(recorded, told, owners)
    refused = isinstance(decision, registration.Refuse)
    if not refused and recovering.was_never_given(node, flags, report.term_seen):
        why = f"{node.name} has seen term {report.term_seen}, which it was not given here"
        await recovering.begin(tx, flags, why, above=report.term_seen)
        flags = await rows.read_flags(tx) or flags
    match decision:
        case registration.Ignore(why=why):
            return Handled(changed=False, why=why)
        case registration.Refuse(why=why):
            return await _refuse(tx, node, why)
        case registration.StillAlive() as alive:
            return await _still_alive(tx, node, flags, alive)
        case registration.OpenSession() as session:
            return await _open(tx, node, flags, session, report)


async def session_applied(tx: Transaction, report: SessionApplied) -> Handled:
    """From joining to up, for the session that the report is about."""
    node = await rows.find_node(tx, report.node_id)
    if node is None:
        return Handled(changed=False, why="the node is not enrolled")
    if (node.term, node.incarnation) != (report.term, report.incarnation):
        return Handled(changed=False, why="the report is of another session")
    if node.state is not NodeState.JOINING:
        return Handled(changed=False, why=f"the node is {node.state}")
    why = f"session {report.term}.{report.incarnation} is applied"
    if await rows.move(tx, node, On.SESSION_APPLIED, why) is None:
        return Handled(changed=False, why="somebody else was first")
    await tx.emit(
        events.NodeUp(node_id=node.node_id, node=node.name, why=why, incarnation=node.incarnation)
    )
    return Handled(changed=True, why=why)


async def remind(tx: Transaction, node: NodeRow) -> bool:
    """Send a joining node its session once more, when its word that it holds is overdue.

    A node that has applied it asks for nothing, so a lost `session_applied` would leave it joining.
    """
    now = await rows.find_node(tx, node.node_id)
    if now is None or (now.state, now.generation) != (NodeState.JOINING, node.generation):
        return False
    sent = await _last_sent(tx, now)
    patience = timedelta(seconds=REMIND_S)
    if sent is None or sent["sent_at"] is None or sent["sent_at"] > tx.now - patience:
        return False
    await tx.send_again(dict(sent))
    return True


async def _last_sent(tx: Transaction, node: NodeRow) -> RowMapping | None:
    return await tx.row(
        select(outbox.outbox)
        .where(outbox.outbox.c.message_id == node.session_command_id)
        .where(outbox.outbox.c.service == tx.service)
        .order_by(outbox.outbox.c.sequence.desc())
        .limit(1)
    )


async def _open(
    tx: Transaction,
    node: NodeRow,
    flags: Flags,
    decision: registration.OpenSession,
    report: Registered,
) -> Handled:
    contract = recovering.kept(flags, decision.contract)
    if _joining_already(node, flags, report) and await _send_again(tx, node, contract):
        return Handled(changed=False, why="the same session was sent again")
    command_id = tx.clock.new_id()
    moved = await rows.move(
        tx,
        node,
        decision.on,
        decision.why,
        term=flags.term,
        incarnation=report.incarnation,
        session_command_id=command_id,
    )
    if moved is None:
        return Handled(changed=False, why="somebody else was first")
    if decision.proof_incarnation is not None:
        await _prove_by_incarnation(tx, node, decision.proof_incarnation, report)
    if node.state in (NodeState.FENCING, NodeState.BLOCKED):
        await attempts.abandon(tx, node.node_id, decision.why)
        await wishes.settle_fences(
            tx, node.node_id, succeeded=True, why=f"it is proven dead by its reboot: {decision.why}"
        )
    await _write_facts(tx, report)
    await _emit_arrival(tx, moved, node, decision)
    session = _session(moved, command_id, contract, boot_id=report.boot_id)
    await tx.send(session, message_id=command_id)
    return Handled(changed=True, why=decision.why)


async def session_anew(tx: Transaction, node: NodeRow) -> bool:
    """Give a node that serves a session of the present term, without waiting until it asks.

    It takes nothing away: what the node shows is not known here. Lost, it is sent again (`remind`).
    """
    command_id = tx.clock.new_id()
    moved = await recovering.move(tx, node, command_id)
    if moved is None:
        return False
    contract = registration.Contract(allowed=await recovering.allowed(tx, moved))
    session = _session(moved, command_id, contract, boot_id=await _boot_id(tx, moved.node_id))
    await tx.send(session, message_id=command_id)
    return True


async def ask_to_register(tx: Transaction, node: NodeRow, incarnation: int) -> bool:
    """Make a node of a later life than we know tell us about it.

    It refuses a session of a higher term for an earlier life, and registers. False: there is no
    earlier life to name.
    """
    flags = await rows.read_flags(tx)
    earlier = node.incarnation or incarnation - 1
    if flags is None or not 1 <= earlier < incarnation:
        return False
    command_id = tx.clock.new_id()
    await tx.send(
        Session(
            node_id=node.node_id,
            command_id=command_id,
            term=flags.term,
            incarnation=earlier,
            allowed={},
            superseded={},
        ),
        message_id=command_id,
    )
    return True


def _joining_already(node: NodeRow, flags: Flags, report: Registered) -> bool:
    return (
        node.state is NodeState.JOINING
        and node.term == flags.term
        and node.incarnation == report.incarnation
    )


async def _emit_arrival(
    tx: Transaction, moved: NodeRow, before: NodeRow, decision: registration.OpenSession
) -> None:
    if decision.rebooted:
        await tx.emit(
            events.NodeRebooted(
                node_id=moved.node_id,
                node=moved.name,
                why=decision.why,
                incarnation=moved.incarnation,
                previous_incarnation=before.incarnation,
            )
        )
    await tx.emit(
        events.NodeRegistered(
            node_id=moved.node_id,
            node=moved.name,
            why=decision.why,
            incarnation=moved.incarnation,
            term=moved.term,
        )
    )


async def _prove_by_incarnation(
    tx: Transaction, node: NodeRow, incarnation: int, report: Registered
) -> None:
    await tx.execute(
        insert(nodes.proof_node).values(
            id=tx.clock.new_id(),
            node_id=node.node_id,
            incarnation=incarnation,
            kind=ProofKind.INCARNATION.value,
            evidence={
                "registered_incarnation": report.incarnation,
                "boot_id": report.boot_id,
                "recorded_incarnation": node.incarnation,
            },
            actor=rows.ACTOR,
            created_at=tx.now,
        )
    )


async def _refuse(tx: Transaction, node: NodeRow, why: str) -> Handled:
    if await _say_once(tx, node, "node.refused", why):
        await tx.emit(events.NodeRefused(node_id=node.node_id, node=node.name, why=why))
        return Handled(changed=True, why=why)
    return Handled(changed=False, why=why)


async def _still_alive(
    tx: Transaction, node: NodeRow, flags: Flags, decision: registration.StillAlive
) -> Handled:
    """It keeps nothing: when it is empty it raises its incarnation and comes back by itself."""
    contract, node = recovering.kept(flags, decision.contract), replace(node, term=flags.term)
    first = await _say_once(tx, node, "node.fenced_alive", decision.why)
    if first:
        await tx.emit(
            events.NodeStillAlive(
                node_id=node.node_id,
                node=node.name,
                why=decision.why,
                incarnation=node.incarnation,
            )
        )
    if not await _send_again(tx, node, contract, proven_dead=True):
        command_id = tx.clock.new_id()
        await tx.execute(
            nodes.node_state.update()
            .where(nodes.node_state.c.node_id == node.node_id)
            .where(nodes.node_state.c.generation == node.generation)
            .values(session_command_id=command_id, term=flags.term)
        )
        boot_id = await _boot_id(tx, node.node_id)
        session = _session(node, command_id, contract, boot_id=boot_id, proven_dead=True)
        await tx.send(session, message_id=command_id)
    return Handled(changed=first, why=decision.why)


async def _say_once(tx: Transaction, node: NodeRow, action: str, why: str) -> bool:
    """Once per cause, until the node has registered successfully in between."""
    audit, event = outbox.audit, outbox.event
    registered_at = await tx.scalar(
        select(func.max(event.c.created_at)).where(
            event.c.subject == node.node_id, event.c.name == events.NodeRegistered.name
        )
    )
    said = await tx.scalar(
        select(func.count()).where(
            audit.c.subject == node.node_id,
            audit.c.action == action,
            audit.c.reason == why,
            *([audit.c.created_at >= registered_at] if registered_at is not None else []),
        )
    )
    if said:
        return False
    await tx.audit(actor=rows.ACTOR, action=action, subject=node.node_id, reason=why)
    return True


def _session(
    node: NodeRow,
    command_id: str,
    contract: registration.Contract,
    *,
    boot_id: str | None,
    proven_dead: bool = False,
) -> Session:
    return Session(
        node_id=node.node_id,
        command_id=command_id,
        term=node.term,
        incarnation=node.incarnation,
        allowed=contract.allowed,
        superseded=contract.superseded,
        proven_dead=proven_dead,
        boot_id=boot_id or "",
    )


async def _send_again(
    tx: Transaction,
    node: NodeRow,
    contract: registration.Contract,
    *,
    proven_dead: bool = False,
) -> bool:
    """Send the session of this gen again, with its id and bytes, if it would say the same now."""
    if node.session_command_id is None:
        return False
    sent = await _last_sent(tx, node)
    if sent is None:
        return False
    boot_id = await _boot_id(tx, node.node_id)
    same = _session(
        node, node.session_command_id, contract, boot_id=boot_id, proven_dead=proven_dead
    )
    wire = encode(same, Envelope(id=node.session_command_id, source="/evac", time=tx.now))
    if wire.body != sent["body"]:
        return False
    if sent["sent_at"] is not None:  # else it waits in the outbox anyway
        await tx.send_again(dict(sent))
    return True


async def _proven(tx: Transaction, node_id: str) -> int:
    proof = nodes.proof_node
    highest = await tx.scalar(
        select(func.max(proof.c.incarnation)).where(proof.c.node_id == node_id)
    )
    return int(highest or 0)


async def _boot_id(tx: Transaction, node_id: str) -> str | None:
    """Facts are written with every new incarnation, so this is the boot of the recorded one."""
    facts = nodes.node_facts
    found = await tx.scalar(select(facts.c.boot_id).where(facts.c.node_id == node_id))
    return None if found is None else str(found)


async def _owners(
    tx: Transaction, node_id: str, instances: Sequence[str]
) -> list[registration.Owner]:
    """The highest ledger row of every instance the node shows, and of every one it owns."""
    own, release, proof = placement.ownership, placement.proof_release, nodes.proof_node
    dead = exists().where(
        proof.c.node_id == own.c.node_id, proof.c.incarnation >= own.c.incarnation
    )
    highest = (
        select(own.c.instance_id, func.max(own.c.epoch).label("epoch"))
        .group_by(own.c.instance_id)
        .subquery()
    )
    statement = select(
        own.c.instance_id,
        own.c.epoch,
        own.c.node_id,
        own.c.incarnation,
        release.c.id,
        dead.label("dead"),
    ).select_from(
        own.join(
            highest,
            and_(highest.c.instance_id == own.c.instance_id, highest.c.epoch == own.c.epoch),
        ).outerjoin(
            release,
            and_(release.c.instance_id == own.c.instance_id, release.c.epoch == own.c.epoch),
        )
    )
    found: dict[str, registration.Owner] = {}
    shown = sorted(set(instances))
    for start in range(0, max(len(shown), 1), _SQL_LIST_MAX):
        part = shown[start : start + _SQL_LIST_MAX]
        where = or_(own.c.node_id == node_id, own.c.instance_id.in_(part))
        for row in await tx.rows(statement.where(where)):
            found[row["instance_id"]] = registration.Owner(
                instance_id=row["instance_id"],
                epoch=row["epoch"],
                node_id=row["node_id"],
                incarnation=row["incarnation"],
                released=row["id"] is not None,
                dead=bool(row["dead"]),
            )
    return [found[instance_id] for instance_id in sorted(found)]


async def _write_facts(tx: Transaction, report: Registered) -> None:
    facts = nodes.node_facts
    values: dict[str, Any] = {
        "dmi_uuid": report.dmi_uuid.lower(),
        "boot_id": report.boot_id,
        "hostname": report.hostname,
        "daemon_version": report.daemon_version,
        "hypervisor": report.hypervisor,
        "vcpus": report.vcpus,
        "memory_mib": report.memory_mib,
        "bridges": list(report.bridges),
        "inventory": [seen.model_dump(mode="json") for seen in report.inventory],
        "updated_at": tx.now,
    }
    # The state's row was just changed by this transaction, so nobody else is here.
    await tx.execute(delete(facts).where(facts.c.node_id == report.node_id))
    await tx.execute(insert(facts).values(node_id=report.node_id, **values))
