"""The expectations' language, and their judgement over what the run left behind.

instance web-1 running on n2
instance web-1 not restarted
node n1 fenced
event node.down of n1 1
no violations

FORMS explains each of them for the reference page; a test reads every example.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from evac_common.messages import events as _events  # noqa: F401 - declares them
from evac_common.messages.registry import Family, declared
from evac_common.model.states import NodeState
from evac_lab.scenario.forms import Form
from evac_lab.scenario.verbs import NotUnderstood

EVENTS: Final = frozenset(event.name for event in declared(Family.EVENT))


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRuns:
    instance: str
    node: str | None  # None: anywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStopped:
    """It executes nowhere, and that is right: its user, or the guest itself, ended it."""

    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceWaits:
    """It executes nowhere, should, and evac says so: an open item, not a lost instance."""

    instance: str
    reason: str | None  # words that evac's own reason contains; None: any


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceNotRestarted:
    """What executes at the end is what executed at second 0: it never ended."""

    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeIs:
    node: str
    state: NodeState


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSeen:
    event: str
    of: str | None  # a node or an instance; None: any
    times: int | None  # None: at least once


@dataclass(frozen=True, slots=True, kw_only=True)
class NoEvent:
    event: str
    of: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evacuations:
    """So many evacuations were opened since second 0."""

    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoViolations:
    pass


Expectation = (
    InstanceRuns
    | InstanceStopped
    | InstanceWaits
    | InstanceNotRestarted
    | NodeIs
    | EventSeen
    | NoEvent
    | Evacuations
    | NoViolations
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a run left behind. The first two come from the hypervisors themselves."""

    running_on: Mapping[str, Sequence[str]] = field(default_factory=dict)  # instance → nodes, now
    lives: Mapping[str, int] = field(default_factory=dict)  # instance → how often it was started
    node_states: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)  # instance → what evac says of it
    events: Sequence[Mapping[str, Any]] = ()  # since second 0
    violations: Sequence[str] = ()


def parse_expectation(line: str) -> Expectation:
    """Read one line. Raises NotUnderstood saying what was expected."""
    words = line.split()
    match words:
        case ["no", "violations"]:
            return NoViolations()
        case ["instance", instance, *rest]:
            return _of_instance(instance, rest)
        case ["node", node, state]:
            if state not in set(NodeState):
                known = ", ".join(NodeState)
                raise NotUnderstood(f"the state of a node is one of {known}, not {state!r}")
            return NodeIs(node=node, state=NodeState(state))
        case ["no", "event", name]:
            return NoEvent(event=_event(name), of=None)
        case ["no", "event", name, "of", subject]:
            return NoEvent(event=_event(name), of=subject)
        case ["event", name]:
            return EventSeen(event=_event(name), of=None, times=None)
        case ["event", name, "of", subject]:
            return EventSeen(event=_event(name), of=subject, times=None)
        case ["event", name, times]:
            return EventSeen(event=_event(name), of=None, times=_count(times))
        case ["event", name, "of", subject, times]:
            return EventSeen(event=_event(name), of=subject, times=_count(times))
        case ["evacuations", times]:
            return Evacuations(times=_count(times))
        case _:
            raise _expected()


def _of_instance(instance: str, words: list[str]) -> Expectation:
    match words:
        case ["running", "on", node]:
            return InstanceRuns(instance=instance, node=node)
        case ["running"]:
            return InstanceRuns(instance=instance, node=None)
        case ["stopped"]:
            return InstanceStopped(instance=instance)
        case ["waiting", *reason]:
            return InstanceWaits(instance=instance, reason=" ".join(reason) or None)
        case ["not", "restarted"]:
            return InstanceNotRestarted(instance=instance)
        case _:
            raise _expected()


def _expected() -> NotUnderstood:
    return NotUnderstood("expected one of " + ", ".join(f"`{form.form}`" for form in FORMS))


def _event(name: str) -> str:
    if name not in EVENTS:
        raise NotUnderstood(f"{name!r} is no event; known are {', '.join(sorted(EVENTS))}")
    return name


def _count(word: str) -> int:
    if not word.isdecimal() or len(word) > 6:
        raise NotUnderstood(f"a count is a number from 0 on, not {word!r}")
    return int(word)


def may_be_down(expectations: Iterable[Expectation]) -> frozenset[str]:
    """Instances that the scenario itself says execute nowhere at the end: not lost."""
    return frozenset(
        expectation.instance
        for expectation in expectations
        if isinstance(expectation, InstanceStopped | InstanceWaits)
    )


def failures(expectations: Sequence[Expectation], found: Found) -> list[str]:
    """What does not hold, a sentence each."""
    return [sentence for one in expectations for sentence in _failures(one, found)]


def _failures(expectation: Expectation, found: Found) -> Sequence[str]:
    match expectation:
        case InstanceRuns() | InstanceStopped() | InstanceWaits() | InstanceNotRestarted():
            sentence = _of_an_instance(expectation, found)
            return [sentence] if sentence else []
        case NodeIs(node=node, state=state):
            seen = found.node_states.get(node)
            return [] if seen == state else [f"node {node} should be {state}; it is {seen}"]
        case NoViolations():
            return list(found.violations)
        case EventSeen(event=event, of=of, times=times):
            count = _how_often(found.events, event, of)
            if (count > 0) if times is None else (count == times):
                return []
            wanted = "at least once" if times is None else _often(times)
            return [f"event {_named(event, of)} should come {wanted}; it came {_often(count)}"]
        case NoEvent(event=event, of=of):
            count = _how_often(found.events, event, of)
            sentence = f"event {_named(event, of)} should not come; it came {_often(count)}"
            return [sentence] if count else []
        case Evacuations(times=times):
            count = _how_often(found.events, "evacuation.opened", None)
            return [] if count == times else [f"{times} evacuations should open; {count} did"]


def _of_an_instance(
    expectation: InstanceRuns | InstanceStopped | InstanceWaits | InstanceNotRestarted,
    found: Found,
) -> str:
    """The sentence; empty when it holds."""
    name = expectation.instance
    where = list(found.running_on.get(name, ()))
    match expectation:
        case InstanceRuns(node=node):
            if len(where) != 1 or (node is not None and where != [node]):
                wanted = f"on {node}" if node else "on one node"
                return f"instance {name} should run {wanted}; it runs on {where or 'none'}"
        case InstanceStopped():
            if where:
                return f"instance {name} should be stopped; it runs on {where}"
        case InstanceWaits(reason=reason):
            said = found.reasons.get(name, "")
            if where:
                return f"instance {name} should wait; it runs on {where}"
            if not said or (reason is not None and reason not in said):
                wanted = f" and say {reason!r}" if reason else ", with a reason"
                return f"instance {name} should wait{wanted}; evac says {said!r}"
        case InstanceNotRestarted():
            lives = found.lives.get(name, 0)
            if lives != 1 or len(where) != 1:
                return (
                    f"instance {name} should not be restarted; it was started {_often(lives)} and "
                    f"runs on {where or 'none'}"
                )
    return ""


def _often(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")


def _named(event: str, of: str | None) -> str:
    return f"{event} of {of}" if of else event


def _how_often(events: Iterable[Mapping[str, Any]], name: str, of: str | None) -> int:
    return sum(
        event["name"] == name
        and (of is None or of in {event["data"].get("node"), event["data"].get("instance")})
        for event in events
    )


# -- what the reference page says ----------------------------------------------------------------

FORMS: Final[tuple[Form, ...]] = (
    Form(
        form="instance NAME running [on NODE]",
        example="instance web-1 running on n2",
        meaning="It executes on exactly one node at the end (on that one), by the hypervisors.",
    ),
    Form(
        form="instance NAME stopped",
        example="instance web-1 stopped",
        meaning="It executes nowhere at the end, and that is right: somebody stopped it.",
    ),
    Form(
        form="instance NAME waiting [WORDS]",
        example="instance web-1 waiting local_storage",
        meaning="It executes nowhere at the end although it should; evac knows, and the status that"
        " it shows for the instance contains the WORDS. It does not count as lost.",
    ),
    Form(
        form="instance NAME not restarted",
        example="instance web-1 not restarted",
        meaning="What executes at the end is what executed at second 0; it never ended.",
    ),
    Form(
        form="node NAME STATE",
        example="node n1 fenced",
        meaning="The monitor's state of the node at the end: " + ", ".join(NodeState) + ".",
    ),
    Form(
        form="event NAME [of SUBJECT] [TIMES]",
        example="event node.down of n1 1",
        meaning="The event (docs/reference/messages.md) came since second 0: at least once, or "
        "exactly TIMES. SUBJECT is a node or an instance.",
    ),
    Form(
        form="no event NAME [of SUBJECT]",
        example="no event node.fencing",
        meaning="It did not come since second 0.",
    ),
    Form(
        form="evacuations TIMES",
        example="evacuations 1",
        meaning="Exactly so many evacuations were opened since second 0.",
    ),
    Form(
        form="no violations",
        example="no violations",
        meaning="Nothing ran twice at any moment, and everything that should run at the end does, "
        "but what another line expects to be stopped or waiting. Belongs into every "
        "scenario.",
    ),
)
