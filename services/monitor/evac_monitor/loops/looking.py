"""What the tick judges: the rows, and what is known of each node in memory, at one instant."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from evac_common.model.states import NodeState, Trouble
from evac_monitor.core import gate, remembering, suspicion, trouble
from evac_monitor.core.witnesses import Witnesses
from evac_monitor.loops.pulse import feel_connection
from evac_monitor.ports import NodeRow, Snapshot
from evac_monitor.process import Monitor, Probing, Rows

#: Answers of witnesses count for three rounds, readings of power for two.
_ANSWERS_COUNT, _READINGS_COUNT = 3, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One tick's knowledge."""

    now_s: float
    snapshot: Snapshot
    health: gate.Health
    nodes: dict[str, NodeRow]
    heard: dict[str, suspicion.Node]
    told: dict[str, trouble.Node]
    witnesses: dict[str, Witnesses]  # of silent nodes: what is not too old


async def read(monitor: Monitor) -> Rows:
    """The rows as they are now; what is not of them any more is forgotten."""
    snapshot = await monitor.records.snapshot(window_s=monitor.blast_window_s())
    feel_connection(monitor)
    now_s = monitor.clock.monotonic()  # after the read: what was heard meanwhile counts
    recorded = {node.node_id: node.incarnation for node in snapshot.nodes}
    monitor.watch.keep(recorded)
    monitor.elsewhere.keep(recorded)
    for node in snapshot.nodes:
        monitor.elsewhere.see(node.node_id, node.heard_at, now=snapshot.now, now_s=now_s)
    return Rows(snapshot=snapshot, at_s=now_s)


async def look(monitor: Monitor) -> Seen:
    rows = await read(monitor)
    monitor.remembered = rows
    return _seen(monitor, rows.snapshot, rows.at_s)


def nothing_to_judge(monitor: Monitor) -> bool:
    """Whether the tick's own rows of a moment ago, and what was heard since, ask for nothing.

    Only the tick's rows are remembered, not those of others, so that whatever the tick alone finds
    out, that a node is doomed, is found out when they are too old.
    """
    believed_s = monitor.settings.rows_believed_s
    return not remembering.why_read(_remembered(monitor, believed_s), believed_s)


def _remembered(monitor: Monitor, believed_s: float) -> remembering.View:
    rows, now_s = monitor.remembered, monitor.clock.monotonic()
    if rows is None or now_s - rows.at_s >= believed_s:
        return remembering.View(age_s=None if rows is None else now_s - rows.at_s)
    feel_connection(monitor)
    seen = _seen(monitor, rows.snapshot, now_s)
    deaf = gate.unwell(seen.health, monitor.settings.gate)
    view = suspicion.View(now_s=now_s, nodes=list(seen.heard.values()), deaf=deaf)
    return remembering.View(
        age_s=now_s - rows.at_s,
        doomed=monitor.doomed,
        all_silent=monitor.all_silent is not None,
        suspect=any(node.state is NodeState.SUSPECT for node in rows.snapshot.nodes),
        due=bool(suspicion.decide(view, monitor.settings.suspicion))
        or any(trouble.decide(known) for known in seen.told.values()),
    )


def _seen(monitor: Monitor, snapshot: Snapshot, now_s: float) -> Seen:
    witnesses = _witnesses(monitor, snapshot, now_s)
    told = {node.node_id: _told(monitor, node, now_s) for node in snapshot.nodes}
    return Seen(
        now_s=now_s,
        snapshot=snapshot,
        health=monitor.vitals.health(now_s=now_s, canary_at_s=monitor.bus.health().canary_at_s),
        nodes={node.node_id: node for node in snapshot.nodes},
        heard={
            node.node_id: _heard(monitor, node, now_s, told[node.node_id], witnesses)
            for node in snapshot.nodes
        },
        told=told,
        witnesses=witnesses,
    )


def _witnesses(monitor: Monitor, snapshot: Snapshot, now_s: float) -> dict[str, Witnesses]:
    settings = monitor.settings
    return {
        node.node_id: monitor.witnesses_of(node).fresh(
            now_s,
            answers_s=_ANSWERS_COUNT * settings.witness_every_s + settings.witness_limit_s,
            power_s=_READINGS_COUNT * settings.power_reading_every_s + settings.power_try_s,
        )
        for node in snapshot.nodes
        if node.node_id in monitor.witnesses
    }


def _told(monitor: Monitor, node: NodeRow, now_s: float) -> trouble.Node:
    settings = monitor.settings
    last = monitor.watch.heard(node.node_id, node.incarnation)
    lately_s, settled_s = settings.suspect_after_s, settings.heartbeat_interval_s
    told = last.told(now_s, lately_s=lately_s, settled_s=settled_s) if last else None
    return trouble.Node(
        state=node.state,
        recorded=[Trouble(each["reason"]) for each in node.troubles],
        told=told,
        in_session=last is not None and last.term == node.term,
        not_executing=monitor.answers.why(
            node.node_id,
            now_s,
            settings.not_executing_after_s,
            degraded=node.state is NodeState.DEGRADED,
        ),
    )


def _heard(
    monitor: Monitor,
    node: NodeRow,
    now_s: float,
    told: trouble.Node,
    witnesses: dict[str, Witnesses],
) -> suspicion.Node:
    last = monitor.watch.heard(node.node_id, node.incarnation)
    second = witnesses.get(node.node_id, Witnesses()).second
    shown = bool(second.alive) if second else None
    return suspicion.Node(
        node_id=node.node_id,
        name=node.name,
        state=node.state,
        term=node.term,
        watched_s=monitor.watch.watched_s(node.node_id, node.incarnation, now_s),
        heard_s=last.at_s if last else None,
        heard_term=last.term if last else 0,
        elsewhere_s=monitor.elsewhere.heard_s(node.node_id),
        troubles=trouble.troubles(last.troubles, told.not_executing) if last else {},
        isolated=node.isolated,
        shown_alive=shown if monitor.has_second_channel else False,
        shown_why=second.why if second else "",
    )


def probe_silent(monitor: Monitor, seen: Seen, view: gate.View) -> None:
    """Say which nodes others are to be asked about: the silent ones, and what about them."""
    silent = sorted(
        (
            node
            for node in seen.heard.values()
            if node.state is NodeState.SUSPECT
            or (node.state is NodeState.DEGRADED and node.isolated)
        ),
        key=lambda node: (-node.silent_s(seen.now_s), node.name),
    )
    matters = gate.power_matters(view, monitor.settings.gate)
    counted = {*view.dead, *view.off} if matters else set()
    monitor.probing = {
        node.node_id: Probing(
            node=seen.nodes[node.node_id],
            power=node.state is NodeState.SUSPECT and node.name in counted,
        )
        for node in silent
    }
    for node_id in [node_id for node_id in monitor.witnesses if node_id not in monitor.probing]:
        del monitor.witnesses[node_id]
    monitor.peers = {
        node.node_id: node.name
        for node in seen.heard.values()
        if node.state in (NodeState.UP, NodeState.DEGRADED)
        and node.silent_s(seen.now_s) < monitor.settings.suspect_after_s
    }


def gate_view(monitor: Monitor, seen: Seen) -> gate.View:
    snapshot, flags = seen.snapshot, seen.snapshot.flags
    counts = _count(monitor, seen)
    left_s = (flags.disarmed_until - snapshot.now).total_seconds() if flags.disarmed_until else 0.0
    last = flags.last_fencing_at
    return gate.View(
        health=seen.health,
        steady_s=seen.now_s - monitor.watch.since_s,
        discontinuity=monitor.watch.cause,
        nodes=sum(node.state is not NodeState.NEW for node in snapshot.nodes),
        dead=counts.dead,
        wavering=counts.wavering,
        unread=counts.unread,
        off=counts.off,
        all_silent=monitor.all_silent.why if monitor.all_silent else "",
        fencings=sum(node.state is NodeState.FENCING for node in snapshot.nodes),
        last_fencing_age_s=(snapshot.now - last).total_seconds() if last else None,
        disarmed_for_s=left_s if left_s > 0 else None,
        disarmed_reason=flags.disarmed_reason,
        storm=flags.storm,
        storm_reason=flags.storm_reason,
        recovering=flags.recovering,
        has_second_channel=monitor.has_second_channel,
        has_peers=monitor.has_peers,
    )


def subject(seen: Seen, node_id: str) -> gate.Subject:
    known = seen.witnesses.get(node_id, Witnesses())
    power = known.power
    return gate.Subject(
        found_off=power.why if power and power.off else "", second=known.second, peers=known.peers
    )


@dataclass(slots=True)
class _Counts:
    """Names, as in `gate.View`."""

    dead: list[str] = field(default_factory=list)
    wavering: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    off: list[str] = field(default_factory=list)


def _count(monitor: Monitor, seen: Seen) -> _Counts:
    flags, now = seen.snapshot.flags, seen.snapshot.now
    released = gate.forgiven_until(flags.storm_released_at, now, monitor.set_back_s())
    counts = _Counts()
    for node in seen.snapshot.nodes:
        if released is not None and _given_up(monitor, node, seen.snapshot, released):
            continue
        long_silent = (
            seen.heard[node.node_id].silent_s(seen.now_s) >= monitor.settings.fence_after_s
        )
        power = seen.witnesses.get(node.node_id, Witnesses()).power
        found_off = power is not None and power.off
        if _counts_as_dead(monitor, seen.snapshot, node, long_silent=long_silent):
            if node.state is NodeState.SUSPECT and found_off:
                counts.off.append(node.name)
                continue
            counts.dead.append(node.name)
            if node.state is NodeState.SUSPECT and power is None:
                counts.unread.append(node.name)
        elif node.state is NodeState.SUSPECT:
            counts.wavering.append(node.name)
    return counts


def _counts_as_dead(
    monitor: Monitor, snapshot: Snapshot, node: NodeRow, *, long_silent: bool
) -> bool:
    """Long silent, being cut off, or cut off within the window (also when it is back since).

    Not when its power read Off before it was cut off: then no fencing did it.
    """
    window = timedelta(seconds=monitor.blast_window_s())
    match node.state:
        case NodeState.SUSPECT:
            return long_silent
        case NodeState.FENCING | NodeState.BLOCKED:
            return not node.found_off
        case NodeState.FENCED:
            return not node.found_off and snapshot.now - node.since < window
        case _:
            return node.node_id in snapshot.powered_off


def _given_up(monitor: Monitor, node: NodeRow, snapshot: Snapshot, released: datetime) -> bool:
    """Whether whoever released the storm knew that it was dead: then its fencing is forgiven.

    Not one that had fallen silent just before, and was still shown as up.
    """
    back = node.state in (NodeState.UP, NodeState.DEGRADED, NodeState.JOINING)
    if back and node.node_id in snapshot.powered_off:
        return snapshot.powered_off[node.node_id] <= released
    shown_s = timedelta(seconds=monitor.settings.suspect_after_s)
    return (node.heard_at or node.since) + shown_s <= released
