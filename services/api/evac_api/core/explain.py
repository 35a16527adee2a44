"""Why is an instance not running, why is it there: the chain of decisions, from the stored reasons.

The chain: intent, the previous owner's last sign of life, the gate, the proof, the candidates, the
ledger row, the command, the report. Where it stops, the summary says what holds it and what
would help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from evac_api.core.status import Seen, is_certain, span, summary
from evac_api.core.views import ExplainView, StepView
from evac_common.model.states import NodeState, Phase

#: What an operator can do about a gate that is shut.
GATE_HINTS: Final = {
    "storm": "`evac cluster storm show`, then `evac cluster storm release`",
    "blast_radius": "`evac cluster storm show`, then `evac cluster storm release`",
    "disarmed": "`evac cluster arm`",
    "hold_off": "wait; it opens by itself",
    "recovering": "`evac cluster status`; it opens when every node has been heard",
    "second_channel": "look at its network and its daemon; `evac node fence` cuts it off anyway",
    "peers": "look at our own network; `evac node fence` cuts it off anyway",
    "rate": "wait; it opens by itself",
    "own_health": "look at the monitor's `/readyz`",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """An event, as stored."""

    name: str
    at: datetime
    data: Mapping[str, Any]

    @property
    def why(self) -> str:
        return str(self.data.get("why") or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Why an earlier copy is surely over: a proof about its node, or its owner's own word."""

    kind: str
    at: datetime
    actor: str
    evidence: Any
    released: bool  # True: the owner gave the epoch back itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """A row of the ledger."""

    epoch: int
    node_id: str
    node: str
    incarnation: int
    run: int
    at: datetime
    proof: Proof | None  # what allowed this owner; None for the first
    over: Proof | None  # what ended it; None while it may still run


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeNow:
    """The monitor's present view of a node, and what happened to it."""

    name: str
    state: NodeState | None
    reason: str
    since: datetime | None
    heard_at: datetime | None
    incarnation: int
    gates: Sequence[Mapping[str, Any]]
    happened: Sequence[Happened]  # oldest first
    attempts: Sequence[Mapping[str, Any]]  # fence attempts: method, number, state, detail, at


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """The instance's place in an evacuation."""

    state: str
    node: str  # the dead one
    opened_at: datetime
    updated_at: datetime
    reason: str
    attempts: int
    next_at: datetime | None
    candidates: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """A command that is not answered yet."""

    verb: str
    node: str
    epoch: int
    run: int
    sent: int
    at: datetime
    next_at: datetime | None
    deadline: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    now: datetime
    name: str
    wanted: bool  # should it run?
    strategy: str
    deleted_at: datetime | None
    wanted_since: datetime
    wanted_why: str
    seen: Seen
    attempts: int
    next_at: datetime | None
    candidates: Sequence[Mapping[str, Any]]  # of the last placement
    owned: Sequence[Owned]  # newest first
    nodes: Mapping[str, NodeNow]  # node id → of the owners in `owned`
    item: Item | None
    ordered: Sequence[Ordered]
    happened: Sequence[Happened]  # to the instance, oldest first
    reserved_on: str = ""
    alarms: Sequence[Happened] = field(default=())


def explain(facts: Facts) -> ExplainView:
    """The chain and its answer."""
    steps = [_intent(facts)]
    owner = facts.owned[0] if facts.owned else None
    previous = facts.owned[1] if len(facts.owned) > 1 else None
    if previous is not None:
        steps += _end_of(facts, previous)
    steps += _choice(facts, owner)
    if owner is not None:
        steps.append(_placed(owner, previous))
        steps += _since_placed(facts, owner)
        if owner.over is not None or not is_certain(facts.seen, facts.now):
            steps += _end_of(facts, owner)
        if owner.over is not None:
            steps += _open_item(facts)
    steps += [_alarm(one) for one in facts.alarms]
    running = facts.seen.phase is Phase.RUNNING and is_certain(facts.seen, facts.now)
    return ExplainView(
        instance=facts.name, summary=_summary(facts, owner), running=running, steps=steps
    )


def _step(kind: str, at: datetime | None, what: str, why: str = "", **detail: Any) -> StepView:
    return StepView(kind=kind, at=at, what=what, why=why, detail=detail)


def _intent(facts: Facts) -> StepView:
    if facts.deleted_at is not None:
        what = "it is to be stopped and removed"
    else:
        what = "it should run" if facts.wanted else "it should not run"
    return _step(
        "intent",
        facts.deleted_at or facts.wanted_since,
        what,
        facts.wanted_why,
        run_strategy=facts.strategy,
    )


def _end_of(facts: Facts, owner: Owned) -> list[StepView]:
    """How an owner was lost, as far as it has come: heartbeat, suspicion, gate, fencing, proof."""
    if owner.over is not None and owner.over.released:
        return [proof_step(owner, owner.over)]
    node = facts.nodes.get(owner.node_id)
    if node is None:
        return [proof_step(owner, owner.over)] if owner.over else []
    until = owner.over.at if owner.over else None
    past = [one for one in node.happened if until is None or one.at <= until]
    silence = _last(past, ("node.suspect",))
    returned = _last(past, ("node.up", "node.recovered"))
    if silence is not None and returned is not None and returned.at > silence.at:
        silence = None  # that silence ended well; the present story is another
    steps: list[StepView] = []
    heard = _last_heard(node, silence, ended=until is not None)
    if heard is not None:
        steps.append(_step("last_heartbeat", heard, f"last heartbeat of {node.name}"))
    if silence is not None:
        steps.append(_step("suspect", silence.at, f"{node.name} suspected", silence.why))
    steps += _gate(node, past, silence, ended=until is not None)
    steps += [
        _step(
            "power",
            attempt["at"],
            f"{attempt['method']} attempt {attempt['number']} on {node.name}: {attempt['state']}",
            str(attempt["detail"]),
        )
        for attempt in node.attempts
        if attempt["incarnation"] == owner.incarnation
    ]
    rebooted = _last(past, ("node.rebooted",))
    if rebooted is not None and owner.over is not None and owner.over.kind == "incarnation":
        steps.append(_step("rebooted", rebooted.at, f"{node.name} came back", rebooted.why))
    if owner.over is not None:
        steps.append(proof_step(owner, owner.over))
    return steps


def _last_heard(node: NodeNow, silence: Happened | None, *, ended: bool) -> datetime | None:
    if silence is not None:
        return silence.at - timedelta(seconds=float(silence.data.get("silent_s") or 0.0))
    return None if ended else node.heard_at


def _gate(
    node: NodeNow, past: Sequence[Happened], silence: Happened | None, *, ended: bool
) -> list[StepView]:
    """The decision to fence: what was held up by which gate, and when all were open."""
    begin = silence.at if silence else None
    now = [one for one in past if begin is None or one.at >= begin]
    steps = [
        _step(
            "gate",
            one.at,
            f"gate {one.data.get('gate')} shut: {node.name} not fenced yet",
            one.why,
            gate=one.data.get("gate"),
            open=False,
        )
        for one in now
        if one.name == "node.fencing_held" and begin is not None
    ]
    gates = [dict(gate) for gate in node.gates]
    fencing = _last(now, ("node.fencing",))
    if fencing is not None:
        what = f"gates open: {node.name} is cut off"
        steps.append(_step("gate", fencing.at, what, fencing.why, gates=gates))
    elif not ended and gates and node.state in (NodeState.SUSPECT, NodeState.JOINING):
        shut = [str(gate["gate"]) for gate in gates if not gate["open"]]
        what = f"gates shut: {', '.join(shut)}" if shut else "all gates open"
        why = "; ".join(str(gate["why"]) for gate in gates if not gate["open"])
        steps.append(_step("gate", node.since, what, why, gates=gates))
    blocked = _last(now, ("node.blocked",))
    if blocked is not None:
        what = f"nothing automatic could prove {node.name} dead"
        steps.append(_step("blocked", blocked.at, what, blocked.why))
    return steps


def proof_step(owner: Owned, proof: Proof) -> StepView:
    """How an owner ended: for a person in words, for a program with the evidence as stored."""
    what = (
        f"{owner.node} released epoch {owner.epoch}"
        if proof.released
        else f"{owner.node} is proven dead (incarnation {owner.incarnation})"
    )
    why = f"{proof.kind}: {_sentence(proof.evidence)}"
    return _step(
        "proof", proof.at, what, why, proof=proof.kind, actor=proof.actor, evidence=proof.evidence
    )


def _sentence(evidence: Any) -> str:
    """Evidence is stored for programs; this is how a person reads it."""
    if not isinstance(evidence, Mapping):
        return str(evidence)
    parts = [f"{key} {_words(value)}" for key, value in evidence.items() if key != "readings"]
    return ", ".join([*parts, *_readings(evidence.get("readings") or [])])


def _readings(readings: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a BMC said, and when: `read off at 00:01:41.9 and 00:01:43.0`."""
    times: dict[str, list[str]] = {}
    for reading in readings:
        at = datetime.fromisoformat(str(reading["at"]))
        time = f"{at:%H:%M:%S}.{at.microsecond // 100_000}"
        times.setdefault(str(reading["state"]), []).append(time)
    return [f"read {state} at {' and '.join(at)}" for state, at in times.items()]


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(str(item) for item in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_words(item) for item in value)
    return str(value)


def _choice(facts: Facts, owner: Owned | None) -> list[StepView]:
    """Which nodes were looked at when the present owner was chosen."""
    if owner is None:
        return _waiting(facts)
    if owner.over is not None and facts.item is not None and facts.item.state != "done":
        return []  # the open item tells of the next choice, not of this one
    item = facts.item
    if item is not None and item.state in ("done", "starting") and item.opened_at <= owner.at:
        return [_evacuated(item, owner), *_candidates(item.candidates, owner.at)]
    return _candidates(facts.candidates, owner.at)


def _evacuated(item: Item, owner: Owned) -> StepView:
    what = f"evacuation of {item.node} opened"
    return _step("evacuation", item.opened_at, what, state=item.state, to=owner.node)


def _candidates(candidates: Sequence[Mapping[str, Any]], at: datetime | None) -> list[StepView]:
    if not candidates:
        return []
    chosen = [str(one["node"]) for one in candidates if one.get("verdict") == "chosen"]
    refused = [one for one in candidates if one.get("verdict") == "refused"]
    what = f"chosen: {chosen[0]}" if chosen else "no node could take it"
    why = "; ".join(f"{one['node']} refused: {one.get('why')}" for one in refused)
    return [_step("candidates", at, what, why, candidates=[dict(one) for one in candidates])]


def _waiting(facts: Facts) -> list[StepView]:
    """Never placed, or free: what placement found the last time it tried."""
    if not facts.wanted:
        return []
    steps = _candidates(facts.candidates, facts.seen.changed_at)
    if facts.reserved_on:
        what = f"room is reserved on {facts.reserved_on}; its wave has not come"
        steps.append(_step("reserved", None, what))
    elif facts.seen.phase is None:
        steps.append(_step("waiting", None, "not looked at by the scheduler yet"))
    return steps


def _placed(owner: Owned, previous: Owned | None) -> StepView:
    if owner.proof is None:
        why = "the first owner" if previous is None else ""
    else:
        why = f"allowed by the proof `{owner.proof.kind}`"
    what = f"placed on {owner.node} under epoch {owner.epoch}"
    return _step("placed", owner.at, what, why, epoch=owner.epoch, node=owner.node, run=owner.run)


def _since_placed(facts: Facts, owner: Owned) -> list[StepView]:
    """Commands and reports of the present epoch."""
    steps = [
        _reported(one)
        for one in facts.happened
        if one.name in _REPORTED and one.data.get("epoch") == owner.epoch
    ]
    for order in facts.ordered:
        if order.epoch != owner.epoch:
            continue
        again = f", sent {order.sent} times" if order.sent > 1 else ""
        until = f"; good until {order.deadline:%H:%M:%S} UTC" if order.deadline else ""
        what = f"{order.verb} (run {order.run}) commanded to {order.node}"
        why = f"not answered yet{again}{until}"
        steps.append(_step("command", order.at, what, why, sent=order.sent, run=order.run))
    steps.sort(key=lambda step: step.at or facts.now)
    if facts.seen.phase is Phase.RUNNING and owner.over is None:
        at = facts.seen.observed_at or facts.seen.changed_at
        steps.append(_step("running", at, f"last seen running on {owner.node}"))
    return steps


_REPORTED: Final = {
    "instance.placed": "start commanded to {node}",
    "instance.started": "{node} reported it running",
    "instance.start_failed": "start failed on {node}",
    "instance.exited": "its guest ended on {node}",
    "instance.stopped": "{node} stopped and released it",
    "instance.evacuated": "evacuated from {from_node} to {to_node}",
}


def _reported(one: Happened) -> StepView:
    words = {key: str(one.data.get(key, "")) for key in ("node", "from_node", "to_node")}
    kind = "command" if one.name == "instance.placed" else one.name.partition(".")[2]
    why = one.why or str(one.data.get("reason") or one.data.get("kind") or "")
    run = f" (run {one.data['run']})" if one.data.get("run") else ""
    return _step(kind, one.at, _REPORTED[one.name].format(**words) + run, why)


def _open_item(facts: Facts) -> list[StepView]:
    """Its owner is gone: what the next start waits for."""
    item = facts.item
    if not facts.wanted:
        return []
    if item is None or item.state in ("done", "cancelled"):
        return _waiting(facts)
    steps = [
        _step(
            "evacuation",
            item.opened_at,
            f"open item in the evacuation of {item.node}: {item.state}",
            item.reason,
            state=item.state,
            attempts=item.attempts,
        ),
        *_candidates(item.candidates, item.updated_at),
    ]
    if facts.reserved_on:
        what = f"room is reserved on {facts.reserved_on}; its wave has not come"
        steps.append(_step("reserved", item.updated_at, what))
    return steps


def _alarm(one: Happened) -> StepView:
    return StepView(kind="alarm", at=one.at, what=one.name, why=one.why, detail=dict(one.data))


def _last(happened: Sequence[Happened], names: tuple[str, ...]) -> Happened | None:
    return next((one for one in reversed(happened) if one.name in names), None)


def _summary(facts: Facts, owner: Owned | None) -> str:
    now = f"{facts.name}: {summary(facts.seen, facts.now)}"
    if not facts.wanted or (
        facts.seen.phase is Phase.RUNNING and is_certain(facts.seen, facts.now)
    ):
        return now
    held = _held(facts, owner)
    return f"{now}. {held}" if held else now


def _held(facts: Facts, owner: Owned | None) -> str:
    """What keeps it from running now, and what would help."""
    if owner is None or owner.over is not None:
        return _unplaced(facts)
    node = facts.nodes.get(owner.node_id)
    if node is None or node.state is NodeState.UP:
        return _back_off(facts)
    if node.state is NodeState.BLOCKED:
        return (
            f"Nothing proves {node.name} dead ({node.reason}): make sure that it is off, "
            f"then `evac node confirm-down {node.name}`."
        )
    shut = [gate for gate in node.gates if not gate["open"]]
    if node.state is NodeState.SUSPECT and shut:
        gate = str(shut[0]["gate"])
        hint = GATE_HINTS.get(gate, "")
        others = f" (and {len(shut) - 1} more)" if len(shut) > 1 else ""
        why = f"{node.name} is silent, but gate {gate} is shut{others}: {shut[0]['why']}"
        return f"{why}. {hint[:1].upper()}{hint[1:]}." if hint else f"{why}."
    if node.state is None:
        return f"{owner.node} has no state: the monitor has not looked at it."
    return f"{node.name} is {node.state.value}: {node.reason or 'no reason recorded'}."


def _unplaced(facts: Facts) -> str:
    item = facts.item
    open_item = item is not None and item.state not in ("done", "cancelled")
    candidates = item.candidates if item is not None and open_item else facts.candidates
    reason = item.reason if item is not None and open_item else facts.seen.reason
    if facts.reserved_on:
        return f"Room is reserved on {facts.reserved_on}; it starts with its wave."
    refused = [one for one in candidates if one.get("verdict") == "refused"]
    told = "; ".join(f"{one['node']}: {one.get('why')}" for one in refused[:5])
    waits = f"It waits: {reason}." if reason else "It waits for the scheduler."
    return f"{waits} Refused by {told}." if told else waits


def _back_off(facts: Facts) -> str:
    if facts.next_at is None or facts.next_at <= facts.now:
        return ""
    wait_s = (facts.next_at - facts.now).total_seconds()
    return f"It starts again in {span(wait_s)} (attempt {facts.attempts + 1})."
