"""The database may have gone back in time: bring every node into a session of the new term."""

from __future__ import annotations

from typing import Final

from evac_common.model.states import NodeState
from evac_monitor.core.watch import Heard
from evac_monitor.ports import Flags, NodeRow, Snapshot
from evac_monitor.process import Monitor

# Alive, and in no need of a proof: such a node may be given a session without asking for it.
_SERVES: Final = (NodeState.UP, NodeState.DEGRADED, NodeState.JOINING)


async def recover(monitor: Monitor, snapshot: Snapshot) -> None:
    """Look at what the nodes' heartbeats say of their sessions; end the recovery when it is done.

    A node is given a session unasked only while its heartbeats show one of an earlier term: it has
    seen no higher one then, so the new term is not in use in the history that was forgotten.
    """
    for node in snapshot.nodes:
        newest = monitor.watch.newest(node.node_id)
        if newest is not None and newest[1].term > 0:
            await _look(monitor, snapshot.flags, node, *newest)
    said = await monitor.records.finish_recovery() if snapshot.flags.recovering else ""
    if said:
        monitor.discontinue("the cluster has recovered")
        monitor.log.warning("recovered", why=said)


async def _look(
    monitor: Monitor, flags: Flags, node: NodeRow, incarnation: int, heard: Heard
) -> None:
    records = monitor.records
    told, given = (incarnation, heard.term), (node.incarnation, node.term)
    known = flags.recovering and heard.term < flags.term
    if not known and (heard.term > flags.term or told > given):
        if await records.ahead(node.node_id, incarnation, heard.term):
            monitor.another_database(f"{node.name} is in a session that the database has not given")
        return
    lately = monitor.clock.monotonic() - heard.at_s < monitor.settings.suspect_after_s
    if not lately or heard.term >= flags.term:
        return
    serves = incarnation == node.incarnation and node.state in _SERVES and node.term < flags.term
    if incarnation > node.incarnation and await records.ask_to_register(node, incarnation):
        monitor.log.info("asked to register", node=node.name, incarnation=incarnation)
    elif serves and await records.session_anew(node):
        monitor.log.info("session of the new term", node=node.name, term=flags.term)
