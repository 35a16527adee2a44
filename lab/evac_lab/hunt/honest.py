"""What a time line owes: every fault ends, and the operator vouches only for what is true.

A hunt promises both, so that whatever does not come back at the end is evac's doing. The minimiser
holds each of its cuts against the same rules, else it would end with a fault that nobody ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from evac_lab.scenario.timeline import (
    Action,
    Bmc,
    BmcState,
    Broker,
    BrokerState,
    BusNoise,
    ClockJump,
    ClockRate,
    Command,
    Database,
    DatabaseState,
    Hang,
    Identity,
    Libvirt,
    LibvirtState,
    Network,
    Noise,
    Orderly,
    Power,
    Resume,
    Start,
    Step,
    Stop,
    Storage,
    StorageState,
)

_LASTING_DATABASE = {DatabaseState.OFF, DatabaseState.SLOW, DatabaseState.READONLY}
_DISARM, _ARM = ("cluster", "disarm"), ("cluster", "arm")
_CONFIRM = ("node", "confirm-down")


@dataclass(slots=True)
class Open:
    """What is not well, by thing: the index of the line that began it."""

    began: dict[str, int] = field(default_factory=dict)
    off_s: dict[str, float] = field(default_factory=dict)  # clocks: how far they were set

    def turn(self, thing: str, index: int, *, ill: bool) -> int | None:
        """Note a line about a thing; returns the line that it ends."""
        before = self.began.pop(thing, None)
        if ill:
            self.began[thing] = index
        return before


def _turn(state: Open, index: int, action: Action) -> int | None:
    """The line that this one ends, if any. `Commands` and what ends by itself begin nothing."""
    thing, ill = _said(state, action)
    if isinstance(action, BusNoise) and action.kind is Noise.CALM:
        for noise in [each for each in state.began if each.startswith("bus ")]:
            del state.began[noise]
        return None
    return None if thing is None else state.turn(thing, index, ill=ill)


def _said(state: Open, action: Action) -> tuple[str | None, bool]:
    match action:
        case Power(node=node, on=on):
            return f"power {node}", not on
        case Orderly(node=node, back=False):
            return f"power {node}", True
        case Network(endpoint=endpoint, on=on, peer=peer, direction=direction):
            return f"network {endpoint} {peer} {direction.value}", not on
        case Stop(service=service, node=node) | Start(service=service, node=node):
            return f"stop {service} {node}", isinstance(action, Stop)
        case Hang(service=service, node=node) | Resume(service=service, node=node):
            return f"hang {service} {node}", isinstance(action, Hang)
        case Bmc() | Storage() | Libvirt():
            return _of_node(action)
        case ClockRate(target=target, percent=percent):
            return f"rate {target}", percent != 0
        case ClockJump(target=target, seconds=seconds):
            off_s = state.off_s[target] = state.off_s.get(target, 0.0) + seconds
            return f"clock {target}", off_s != 0
        case Identity(node=node, of=of):
            return f"identity {node}", of is not None
        case _:
            return _of_cluster(action)


def _of_node(action: Bmc | Storage | Libvirt) -> tuple[str | None, bool]:
    match action:
        case Bmc(node=node, state=state):
            return f"bmc {node}", state is not BmcState.ON
        case Storage(node=node, state=well):
            return f"storage {node}", well is not StorageState.ON
        case Libvirt(state=LibvirtState.KILL):
            return None, False  # back by itself
        case Libvirt(node=node, state=libvirt):
            return f"libvirt {node}", libvirt is not LibvirtState.RESUME


def _of_cluster(action: Action) -> tuple[str | None, bool]:
    match action:
        case Broker(state=state):
            return "broker", state is not BrokerState.ON
        case Database(state=state) if state is DatabaseState.ON or state in _LASTING_DATABASE:
            return "database", state is not DatabaseState.ON
        case BusNoise(kind=kind, percent=percent):
            return f"bus {kind.value}", percent > 0
        case Command(argv=argv) if argv[:2] in (_DISARM, _ARM):
            return "disarmed", argv[:2] == _DISARM
        case _:
            return None, False


def still_ill(steps: Sequence[Step]) -> Mapping[str, int]:
    """What nothing has ended when the time line ends: thing → index of the line that began it."""
    state = Open()
    for index, step in enumerate(steps):
        _turn(state, index, step.action)
    return state.began


def lies(steps: Sequence[Step]) -> Iterator[int]:
    """The lines in which the operator vouches for a node that is not known to be off."""
    state = Open()
    for index, step in enumerate(steps):
        _turn(state, index, step.action)
        action = step.action
        if isinstance(action, Command) and action.argv[:2] == _CONFIRM:
            node = next((word for word in action.argv[2:] if not word.startswith("-")), "")
            if f"power {node}" not in state.began:
                yield index


def well_since_s(steps: Sequence[Step]) -> float | None:
    """From when on nothing is ill and nothing happens but an operator's commands; None: never."""
    if still_ill(steps):
        return None
    happenings = [step.at_s for step in steps[:-1] if not isinstance(step.action, Command)]
    return max(happenings, default=0.0)


def pairs(steps: Sequence[Step]) -> list[tuple[int, ...]]:
    """The lines by index, each beginning together with its end; `end` is not among them."""
    state = Open()
    partner: dict[int, int] = {}
    for index, step in enumerate(steps[:-1]):
        began = _turn(state, index, step.action)
        if began is not None:
            partner[began] = index
    ends = set(partner.values())
    return [
        (index, *((partner[index],) if index in partner else ()))
        for index in range(len(steps) - 1)
        if index not in ends or index in partner
    ]
