"""Re-read everything that a nudge may have missed: new nodes, forgotten ones, wishes, the term."""

from __future__ import annotations

from evac_common.model.states import NodeState
from evac_monitor.core import disarm, wishes
from evac_monitor.core.wishes import Verb
from evac_monitor.loops import looking
from evac_monitor.loops.pulse import feel_connection, prepare
from evac_monitor.loops.recovery import recover
from evac_monitor.loops.tick import heard_at_wall
from evac_monitor.ports import NodeRow, NodeWish, Snapshot
from evac_monitor.process import Monitor, Rows


async def sweep(monitor: Monitor) -> None:
    await prepare(monitor)
    made, removed = await monitor.records.adopt()
    if made or removed:
        monitor.log.info("nodes adopted", new=made, forgotten=removed)
    for wish in await monitor.records.open_cluster_wishes():
        if await monitor.records.carry_out(wish):
            monitor.log.warning("cluster", verb=wish.verb, actor=wish.actor, why=wish.reason)
    await _node_wishes(monitor)
    rows = await looking.read(monitor)
    for node in rows.snapshot.nodes:
        if node.state is NodeState.JOINING and await monitor.records.remind(node):
            monitor.log.info("session sent again", node=node.name)
    monitor.answers.see(await monitor.records.unanswered(), monitor.clock.monotonic())
    await _remind_disarmed(monitor, rows.snapshot)
    await recover(monitor, rows.snapshot)
    await _note_heard(monitor, rows)


async def _remind_disarmed(monitor: Monitor, snapshot: Snapshot) -> None:
    flags, every_s = snapshot.flags, monitor.settings.remind_disarmed_s
    if not disarm.must_say(flags.disarmed_until, flags.disarmed_said_at, snapshot.now, every_s):
        return
    said = await monitor.records.remind_disarmed(every_s=every_s)
    if said:
        monitor.log.warning("cluster", why=said)


async def _node_wishes(monitor: Monitor) -> None:
    open_wishes = await monitor.records.open_node_wishes()
    if not open_wishes:
        return
    for wish in open_wishes:
        # Each on a fresh read: one wish may change what the next one meets.
        snapshot = await monitor.records.snapshot(window_s=monitor.blast_window_s())
        node = next((row for row in snapshot.nodes if row.node_id == wish.node_id), None)
        await _node_wish(monitor, wish, node, recovering=snapshot.flags.recovering)


async def _node_wish(
    monitor: Monitor, wish: NodeWish, node: NodeRow | None, *, recovering: bool
) -> None:
    if node is None:
        await monitor.records.answer(wish, wishes.Refuse(why="the node is not known any more"))
        return
    match Verb(wish.verb):
        case Verb.FENCE:
            decision = wishes.fence(node.state)
        case Verb.CONFIRM_DOWN:
            decision = wishes.confirm_down(
                node.state,
                _hearing(monitor, node, any_life=recovering),
                monitor.settings.suspect_after_s,
                recovering=recovering,
            )
    match decision:
        case wishes.Act():
            done = (
                await monitor.records.begin_fencing_for(node, wish)
                if wish.verb == Verb.FENCE.value
                else await monitor.records.confirm_down(node, wish)
            )
            if done:
                monitor.doomed = True
                monitor.fence_wake.set()
                monitor.log.warning(
                    "operator", verb=wish.verb, node=node.name, actor=wish.actor, why=wish.reason
                )
        case wishes.Vouch():
            await monitor.records.vouch(node, wish)
        case wishes.Succeed() | wishes.Refuse():
            if await monitor.records.answer(wish, decision):
                monitor.log.info("wish answered", verb=wish.verb, node=node.name, why=decision.why)
        case wishes.Wait():
            pass


def _hearing(monitor: Monitor, node: NodeRow, *, any_life: bool) -> wishes.Hearing:
    """What we hear of the incarnation on record; deaf ourselves, we have not listened at all.

    `any_life`: also of a later one. While recovering a vouched node needs not be heard, and what
    its later life runs would be forgotten.
    """
    feel_connection(monitor)
    now_s = monitor.clock.monotonic()
    last = monitor.watch.heard(node.node_id, node.incarnation)
    if any_life and (newest := monitor.watch.newest(node.node_id)) is not None:
        last = newest[1]
    connected = monitor.bus.health().connected
    return wishes.Hearing(
        silent_s=None if last is None else now_s - last.at_s,
        listening_s=now_s - monitor.watch.since_s if connected else 0.0,
    )


async def _note_heard(monitor: Monitor, rows: Rows) -> None:
    """Tell people, and monitors that do not hear a node, when we last did.

    One statement in each sweep, for nodes that we have heard since our last note; a node that is
    silent costs nothing. The notes of several monitors overwrite each other: each says the same.
    """
    heard_at = {}
    for node in rows.snapshot.nodes:
        last = monitor.watch.heard(node.node_id, node.incarnation)
        if last is None or not monitor.elsewhere.is_news(node.node_id, last.at_s):
            continue
        at = heard_at_wall(rows.snapshot.now, rows.at_s, last.at_s)
        assert at is not None, "it was heard"
        monitor.elsewhere.note(node.node_id, last.at_s, at)
        heard_at[node.node_id] = at
    if heard_at:
        await monitor.records.note_heard(heard_at)
