"""Judge silence and troubles, ask the gates, decide: several times a second.

Reads one snapshot, decides in the core, and carries each decision out as its own compare-and-set; a
lost race is no error, the next tick reads again. While all is well most ticks read nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from evac_common.model.states import NodeState
from evac_monitor.core import gate, suspicion, trouble
from evac_monitor.loops import looking
from evac_monitor.loops.looking import Seen
from evac_monitor.ports import NodeRow
from evac_monitor.process import Monitor

#: How long a storm is not declared because BMCs are asked for the first time.
STORM_PATIENCE_S: Final = 60.0


async def tick(monitor: Monitor) -> None:
    if not monitor.prepared or looking.nothing_to_judge(monitor):
        return
    seen = await looking.look(monitor)
    monitor.doomed = any(
        node.state in (NodeState.FENCING, NodeState.BLOCKED) for node in seen.snapshot.nodes
    )
    deaf = gate.unwell(seen.health, monitor.settings.gate)
    if not deaf and _silent_broker(monitor, seen):
        return  # who was heard is unknown again; the next tick judges
    gates = looking.gate_view(monitor, seen)
    looking.probe_silent(monitor, seen, gates)
    await _judge_silence(monitor, seen, deaf, gates)
    await _judge_troubles(monitor, seen)
    _forget_held(monitor, seen)


async def _judge_silence(monitor: Monitor, seen: Seen, deaf: str, gates: gate.View) -> None:
    view = suspicion.View(now_s=seen.now_s, nodes=list(seen.heard.values()), deaf=deaf)
    overdue: list[suspicion.Overdue] = []
    for decision in suspicion.decide(view, monitor.settings.suspicion):
        match decision:
            case suspicion.Change():
                await _change(monitor, seen, decision)
            case suspicion.Mark():
                await _mark(monitor, seen.nodes[decision.node_id], decision)
            case suspicion.Overdue():
                overdue.append(decision)
            case suspicion.Hold():
                pass
    if overdue:
        await _cut_off_one(monitor, seen, overdue, gates)


def _silent_broker(monitor: Monitor, seen: Seen) -> bool:
    """Notice that all nodes fell silent at once. True: the silence has just ended.

    When some of them are heard again the others are on their way: silence is counted anew, so that
    the slow ones are not taken for dead.
    """
    policy, nodes = monitor.settings.suspicion, list(seen.heard.values())
    before = monitor.all_silent
    monitor.all_silent = suspicion.all_at_once(nodes, seen.now_s, policy)
    if monitor.all_silent is not None:
        if before is None:
            monitor.log.error("all nodes fell silent at once", why=monitor.all_silent.why)
        return False
    again = before is not None and any(
        seen.heard[node_id].silent_s(seen.now_s) < policy.suspect_after_s
        for node_id in before.nodes
        if node_id in seen.heard
    )
    if again:
        monitor.discontinue("all nodes were silent at once and are heard again")
    return again


async def _change(monitor: Monitor, seen: Seen, decision: suspicion.Change) -> None:
    node, heard = seen.nodes[decision.node_id], seen.heard[decision.node_id]
    heard_at = heard_at_wall(seen.snapshot.now, seen.now_s, heard.heard_s)
    if heard.heard_s is not None and heard_at is not None:
        monitor.elsewhere.note(node.node_id, heard.heard_s, heard_at)
    changed = await monitor.records.change(
        node,
        decision.on,
        decision.why,
        silent_s=decision.silent_s,
        heard_at=heard_at,
        troubles=decision.troubles,
        isolated=decision.isolated,
    )
    if changed:
        monitor.log.info("node", node=node.name, state=decision.on.value, why=decision.why)


async def _mark(monitor: Monitor, node: NodeRow, decision: suspicion.Mark) -> None:
    on_isolated = monitor.settings.on_isolated
    if await monitor.records.mark_isolated(node, decision.isolated, decision.why, on_isolated):
        monitor.log.warning(
            "node isolated" if decision.isolated else "node not isolated",
            node=node.name,
            why=decision.why,
        )


async def _judge_troubles(monitor: Monitor, seen: Seen) -> None:
    for node_id, known in seen.told.items():
        change, node = trouble.decide(known), seen.nodes[node_id]
        if change is None:
            continue
        done = await monitor.records.change(
            node, change.on, change.why, silent_s=0.0, heard_at=None, troubles=change.troubles
        )
        if done:
            log = monitor.log.warning if change.troubles else monitor.log.info
            log("node", node=node.name, state=change.on.value, why=change.why)


def heard_at_wall(now: datetime, now_s: float, heard_s: float | None) -> datetime | None:
    """A moment of our monotonic clock on the wall clock, for people and other monitors."""
    return None if heard_s is None else now - timedelta(seconds=now_s - heard_s)


async def _cut_off_one(
    monitor: Monitor, seen: Seen, overdue: Sequence[suspicion.Overdue], view: gate.View
) -> None:
    """At most one per tick: each fencing changes what the gates say about the next."""
    policy = monitor.settings.gate
    if not _patient(monitor, view, seen.now_s):
        view = replace(view, unread=())
    storm = gate.storm_to_declare(view, policy)
    if storm and await monitor.records.declare_storm(storm, sorted(view.dead)):
        monitor.log.error("storm declared: nothing is fenced automatically", why=storm)
    begun = False
    for late in overdue:
        node, about = seen.nodes[late.node_id], looking.subject(seen, late.node_id)
        answers = gate.ask(view, about, policy)
        if not all(answer.open for answer in answers):
            await _hold(monitor, node, answers)
        elif not begun:
            begun = await _begin(monitor, seen, node, answers, late.why, bool(about.found_off))


async def _begin(
    monitor: Monitor,
    seen: Seen,
    node: NodeRow,
    answers: Sequence[gate.Answer],
    why: str,
    found_off: bool,
) -> bool:
    flags = seen.snapshot.flags
    if await monitor.records.begin_fencing(node, flags, answers, why, found_off=found_off):
        monitor.log.warning("fencing begins", node=node.name, why=why)
        monitor.doomed = True
        monitor.fence_wake.set()
        return True
    return False


def _patient(monitor: Monitor, view: gate.View, now_s: float) -> bool:
    """Whether a storm may still wait for the first readings of power: not for ever."""
    if len(view.dead) <= gate.blast_limit(view.nodes, monitor.settings.gate):
        monitor.many_dead_since_s = None
    elif monitor.many_dead_since_s is None:
        monitor.many_dead_since_s = now_s
    since_s = monitor.many_dead_since_s
    return since_s is None or now_s - since_s < STORM_PATIENCE_S


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


def _forget_held(monitor: Monitor, seen: Seen) -> None:
    current = {(node.node_id, node.since) for node in seen.snapshot.nodes}
    for key in [key for key in monitor.held if key not in current]:
        del monitor.held[key]
