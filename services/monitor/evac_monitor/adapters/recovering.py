"""The database went back in time: notice it, and bring every node into a session of a new term.

`begin` is the only way in and `finish` the only way out. In between the scheduler starts nothing,
nothing is cut off automatically, sessions take nothing away, and every registered node must show
what it has, or be proven down anew: a proof from before says nothing about what the node did in the
history that was forgotten.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import select, update

from evac_common.errors import StoreUnavailable
from evac_common.messages import events
from evac_common.store import nodes, placement, regress
from evac_common.store.transaction import Transaction
from evac_monitor.adapters import rows, wishes
from evac_monitor.core.registration import Contract
from evac_monitor.core.states import On
from evac_monitor.ports import ClusterWish, Flags, NodeRow

_FLAGS = nodes.cluster_flags
_ROW = _FLAGS.c.id == 1
_STATE = nodes.node_state


async def prepare(tx: Transaction, position: int | None) -> tuple[bool, int | None]:
    """Write down which database this is; begin a recovery when it may have gone back in time.

    `position`: what the call before returned, in this process. True: the term rose.
    """
    flags = await rows.read_flags(tx)
    if flags is None:
        raise StoreUnavailable("the cluster's flags are missing: run `evac-api migrate`")
    found, now = await regress.identity(tx), await regress.position(tx)
    if not flags.database_identity:  # as migrated
        await tx.execute(
            update(_FLAGS)
            .where(_ROW, _FLAGS.c.database_identity == "")
            .values(database_identity=found or tx.clock.new_id())
        )
        return False, now
    changed = regress.difference(flags.database_identity, found)
    if changed:
        return await begin(tx, flags, changed, identity=found), now
    if found is not None and found != flags.database_identity:  # an older version knew less
        await tx.execute(update(_FLAGS).where(_ROW).values(database_identity=found))
    if position is not None and now is not None and now < position:
        why = f"its transaction counter fell from {position} to {now}: its disk was rolled back"
        return await begin(tx, flags, why), now
    if not flags.recovering and (why := await regress.unknown(tx)):
        return await begin(tx, flags, why), now
    return False, now


async def begin(
    tx: Transaction, seen: Flags, why: str, *, above: int = 0, identity: str | None = None
) -> bool:
    """A new term, higher than `above` too. False: another monitor was first.

    What somebody asked for about a node may have been of the past that the database went back to,
    and carried out long ago: `confirm-down` of a node that lives again. It must be said again.
    """
    term = max(seen.term, above) + 1
    changed = await tx.change(
        update(_FLAGS)
        .where(_ROW, _FLAGS.c.term == seen.term)
        .where(_FLAGS.c.database_identity == seen.database_identity)
        .values(
            term=term,
            database_identity=identity or seen.database_identity,
            recovering=True,
            recovering_reason=why,
            recovering_since=tx.now,
        )
    )
    if changed != 1:
        return False
    await wishes.refuse_all(
        tx, "it was said before the database may have gone back in time: say it again"
    )
    await tx.emit(events.Recovering(why=why, term=term))
    await tx.audit(
        actor=rows.ACTOR,
        action="cluster.recovering",
        subject="cluster",
        reason=why,
        detail={"term": term},
    )
    return True


async def restored(tx: Transaction, wish: ClusterWish) -> tuple[bool, str]:
    """An operator says that a backup was restored. Returns success and the reason."""
    flags = await rows.read_flags(tx)
    why = f"a backup was restored: {wish.reason} ({wish.actor})"
    if flags is None or not await begin(tx, flags, why):
        return False, "the term rose at the same moment: say it again if that was not this restore"
    return True, "every node shows what it runs before anything is started"


async def ahead(tx: Transaction, node_id: str, incarnation: int, term: int) -> bool:
    """Its heartbeat is of a session that this database has not given it: begin a recovery.

    A session is recorded before it is sent, so the row is never behind by itself. Read again here:
    the heartbeat may be younger than what the caller knows. True: the term rose.
    """
    node, flags = await rows.find_node(tx, node_id), await rows.read_flags(tx)
    if node is None or flags is None or term < 1:
        return False
    if flags.recovering and term < flags.term:
        return False  # known to be of the forgotten history: it is being asked to register
    given = (node.incarnation, node.term)
    if term <= flags.term and (incarnation, term) <= given:
        return False
    why = (
        f"{node.name} is in session {term}.{incarnation}, "
        f"the database has given it {node.term}.{node.incarnation}"
    )
    return await begin(tx, flags, why, above=term)


def was_never_given(node: NodeRow, flags: Flags, term_seen: int) -> bool:
    """Has this node seen a term that this database has not given it?

    A term in use already could be one of the forgotten history, whose commands must not be obeyed.
    """
    if term_seen > flags.term:
        return True
    # A node that was forgotten and enrolled again has seen term 1; that alone says nothing.
    told = node.incarnation > 0 or flags.term > 1
    return told and term_seen == flags.term and node.term < flags.term


def kept(flags: Flags, contract: Contract) -> Contract:
    """While recovering a session takes nothing away: what was forgotten may be the only copy."""
    return Contract(allowed=contract.allowed) if flags.recovering else contract


async def allowed(tx: Transaction, node: NodeRow) -> dict[str, int]:
    """Living epochs that the ledger gives this incarnation."""
    own, release, proof = placement.ownership, placement.proof_release, nodes.proof_node
    later = own.alias("later")
    found = await tx.rows(
        select(own.c.instance_id, own.c.epoch)
        .where(own.c.node_id == node.node_id, own.c.incarnation == node.incarnation)
        .where(
            ~select(later.c.epoch)
            .where(later.c.instance_id == own.c.instance_id, later.c.epoch > own.c.epoch)
            .exists(),
            ~select(release.c.id)
            .where(release.c.instance_id == own.c.instance_id, release.c.epoch == own.c.epoch)
            .exists(),
            ~select(proof.c.id)
            .where(proof.c.node_id == own.c.node_id, proof.c.incarnation >= own.c.incarnation)
            .exists(),
        )
        .order_by(own.c.instance_id)
    )
    return {row["instance_id"]: row["epoch"] for row in found}


async def move(tx: Transaction, node: NodeRow, command_id: str) -> NodeRow | None:
    """To joining, in the present term. None: not now."""
    flags = await rows.read_flags(tx)
    if flags is None or node.term >= flags.term:
        return None
    return await rows.move(
        tx,
        node,
        On.TERM_ROSE,
        f"its session is of term {node.term}, the term is {flags.term}",
        term=flags.term,
        session_command_id=command_id,
    )


#: Decided in a past that the database forgot parts of: the node may be well and serve since.
ONLY_READ: Final = (
    select(_FLAGS.c.id)
    .where(_ROW, _FLAGS.c.recovering, _STATE.c.doomed_term < _FLAGS.c.term)
    .correlate(_STATE)
    .exists()
)


async def only_read(tx: Transaction, node: NodeRow) -> bool:
    """Whether a doomed node's power may now be read and not switched off."""
    return bool(await tx.scalar(select(ONLY_READ).where(_STATE.c.node_id == node.node_id)))


async def is_of_now(tx: Transaction, term: int | None) -> bool:
    """Whether what was seen from within this term on counts: all does, but while recovering.

    What was seen before the recovery began says nothing of what the node did in the history that
    was forgotten. None: nobody knows since which term.
    """
    flags = await rows.read_flags(tx)
    return flags is None or not flags.recovering or term == flags.term


async def proven_down(tx: Transaction, node: NodeRow, *, term: int | None = None) -> None:
    """It needs not be heard in this recovery: it runs nothing, by a proof that is of now.

    `term`: from within which it was seen to be off. The recovery may have begun since that was
    asked, so it is compared in the same statement. None: a person says so now.
    """
    recovering = select(_FLAGS.c.id).where(_ROW, _FLAGS.c.recovering)
    if term is not None:
        recovering = recovering.where(_FLAGS.c.term == term)
    await tx.execute(
        update(_STATE)
        .where(_STATE.c.node_id == node.node_id)
        .where(recovering.exists())
        .values(down_term=rows.TERM)
    )


async def finish(tx: Transaction) -> str:
    """End the recovery once the scheduler has done its part in this term. Returns what was said."""
    flags, done = await rows.read_flags(tx), placement.recovery
    if flags is None or not flags.recovering:
        return ""
    result = await tx.row(select(done).where(done.c.term == flags.term))
    if result is None:
        return ""
    changed = await tx.change(
        update(_FLAGS)
        .where(_ROW, _FLAGS.c.term == flags.term, _FLAGS.c.recovering)
        .values(recovering=False, recovering_reason="", recovering_since=None)
    )
    if changed != 1:
        return ""
    why = (
        f"every node was heard or is proven down; adopted {result['adopted']}, "
        f"left to an operator {result['left_alone']}"
    )
    await tx.emit(
        events.Recovered(
            why=why,
            term=flags.term,
            adopted=result["adopted"],
            left_alone=result["left_alone"],
        )
    )
    await tx.audit(actor=rows.ACTOR, action="cluster.recovered", subject="cluster", reason=why)
    return why
