"""Judge silence, ask the gates, decide: several times a second.

Reads one snapshot, decides in the core, and carries each decision out as its own compare-and-set; a
lost race is no error, the next tick reads again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from evac_common.model.states import NodeState
from evac_monitor.core import gate, suspicion
from evac_monitor.loops.pulse import feel_connection
from evac_monitor.ports import NodeRow, Snapshot
from evac_monitor.process import Monitor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """One tick's knowledge."""

    now_s: float
    snapshot: Snapshot
    health: gate.Health
    nodes: dict[str, NodeRow]
    heard: dict[str, suspicion.Node]


async def tick(monitor: Monitor) -> None:
    if not monitor.prepared:
        return
    seen = await _look(monitor)
    monitor.doomed = any(
        node.state in (NodeState.FENCING, NodeState.BLOCKED) for node in seen.snapshot.nodes
    )
    policy = monitor.settings.suspicion
    view = suspicion.View(
        now_s=seen.now_s,
        nodes=list(seen.heard.values()),
        deaf=gate.unwell(seen.health, monitor.settings.gate),
    )
    overdue: list[suspicion.Overdue] = []
    for decision in suspicion.decide(view, policy):
        match decision:
            case suspicion.Change():
                await _change(monitor, seen, decision)
            case suspicion.Overdue():
                overdue.append(decision)
            case suspicion.Hold():
                pass
    if overdue:
        await _cut_off_one(monitor, seen, overdue)
    _forget_held(monitor, seen)


async def _look(monitor: Monitor) -> _Seen:
    snapshot = await monitor.records.snapshot(window_s=monitor.settings.blast_window_s)
    feel_connection(monitor)
    now_s = monitor.clock.monotonic()  # after the read: what was heard meanwhile counts
    watch = monitor.watch
    watch.keep({node.node_id: node.incarnation for node in snapshot.nodes})
    heard = {}
    for node in snapshot.nodes:
        last = watch.heard(node.node_id, node.incarnation)
        heard[node.node_id] = suspicion.Node(
            node_id=node.node_id,
            name=node.name,
            state=node.state,
            term=node.term,
            watched_s=watch.watched_s(node.node_id, node.incarnation, now_s),
            heard_s=last.at_s if last else None,
            heard_term=last.term if last else 0,
        )
    health = monitor.vitals.health(now_s=now_s, canary_at_s=monitor.bus.health().canary_at_s)
    return _Seen(
        now_s=now_s,
        snapshot=snapshot,
        health=health,
        nodes={node.node_id: node for node in snapshot.nodes},
        heard=heard,
    )


async def _change(monitor: Monitor, seen: _Seen, decision: suspicion.Change) -> None:
    node, heard = seen.nodes[decision.node_id], seen.heard[decision.node_id]
    heard_at = heard_at_wall(seen.snapshot.now, seen.now_s, heard.heard_s)
    changed = await monitor.records.change(
        node, decision.on, decision.why, silent_s=decision.silent_s, heard_at=heard_at
    )
    if changed:
        monitor.log.info("node", node=node.name, state=decision.on.value, why=decision.why)


def heard_at_wall(now: datetime, now_s: float, heard_s: float | None) -> datetime | None:
    """A moment of our monotonic clock on the wall clock, for people."""
    return None if heard_s is None else now - timedelta(seconds=now_s - heard_s)


async def _cut_off_one(monitor: Monitor, seen: _Seen, overdue: Sequence[suspicion.Overdue]) -> None:
    """At most one per tick: each fencing changes what the gates say about the next."""
    policy = monitor.settings.gate
    view = _gate_view(monitor, seen)
    answers = gate.ask(view, policy)
    storm = gate.storm_to_declare(view, answers, policy)
    if storm and await monitor.records.declare_storm(storm, sorted(view.dead)):
        monitor.log.error("storm declared: nothing is fenced automatically", why=storm)
    if all(answer.open for answer in answers):
        node, why = seen.nodes[overdue[0].node_id], overdue[0].why
        if await monitor.records.begin_fencing(node, seen.snapshot.flags, answers, why):
            monitor.log.warning("fencing begins", node=node.name, why=why)
            monitor.doomed = True
            monitor.fence_wake.set()
        return
    for late in overdue:
        await _hold(monitor, seen.nodes[late.node_id], answers)


async def _hold(monitor: Monitor, node: NodeRow, answers: Sequence[gate.Answer]) -> None:
    """Store the gates' answers when which of them are shut has changed; say each shut gate once."""
    shut = {answer.gate.value for answer in answers if not answer.open}
    before = {stored["gate"] for stored in node.decision if not stored["open"]}
    if node.decision and shut == before:
        return
    said = monitor.held.setdefault((node.node_id, node.since), set())
    newly = [a for a in answers if not a.open and a.gate.value not in said | before]
    if await monitor.records.hold(node, answers, newly):
        said.update(answer.gate.value for answer in newly)
        for answer in newly:
            monitor.log.warning(
                "fencing held", node=node.name, gate=answer.gate.value, why=answer.why
            )


def _forget_held(monitor: Monitor, seen: _Seen) -> None:
    current = {(node.node_id, node.since) for node in seen.snapshot.nodes}
    for key in [key for key in monitor.held if key not in current]:
        del monitor.held[key]


def _gate_view(monitor: Monitor, seen: _Seen) -> gate.View:
    snapshot, flags = seen.snapshot, seen.snapshot.flags
    fence_after_s = monitor.settings.fence_after_s
    dead, wavering = [], []
    for node in snapshot.nodes:
        silent_s = seen.heard[node.node_id].silent_s(seen.now_s)
        released = flags.storm_released_at
        if released is not None and _died_at(node, snapshot) <= released:
            continue
        if _counts_as_dead(monitor, snapshot, node, silent_s >= fence_after_s):
            dead.append(node.name)
        elif node.state is NodeState.SUSPECT:
            wavering.append(node.name)
    left_s = (flags.disarmed_until - snapshot.now).total_seconds() if flags.disarmed_until else 0.0
    last = flags.last_fencing_at
    return gate.View(
        health=seen.health,
        steady_s=seen.now_s - monitor.watch.since_s,
        discontinuity=monitor.watch.cause,
        nodes=sum(node.state is not NodeState.NEW for node in snapshot.nodes),
        dead=dead,
        wavering=wavering,
        fencings=sum(node.state is NodeState.FENCING for node in snapshot.nodes),
        last_fencing_age_s=(snapshot.now - last).total_seconds() if last else None,
        disarmed_for_s=left_s if left_s > 0 else None,
        disarmed_reason=flags.disarmed_reason,
        storm=flags.storm,
        storm_reason=flags.storm_reason,
    )


def _counts_as_dead(monitor: Monitor, snapshot: Snapshot, node: NodeRow, long_silent: bool) -> bool:
    """Long silent, being cut off, or cut off within the window (also when it is back since)."""
    window = timedelta(seconds=monitor.settings.blast_window_s)
    match node.state:
        case NodeState.SUSPECT:
            return long_silent
        case NodeState.FENCING | NodeState.BLOCKED:
            return True
        case NodeState.FENCED:
            return snapshot.now - node.since < window
        case _:
            return node.node_id in snapshot.powered_off


def _died_at(node: NodeRow, snapshot: Snapshot) -> datetime:
    """When it was last heard: a released storm forgives what was silent before the release."""
    back = node.state in (NodeState.UP, NodeState.JOINING)
    if back and node.node_id in snapshot.powered_off:
        return snapshot.powered_off[node.node_id]
    return node.heard_at or node.since
