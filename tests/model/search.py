"""Every state that a model can reach, breadth first; so a counterexample is a shortest one."""

from __future__ import annotations

from dataclasses import dataclass

from tests.model.protocol import Model
from tests.model.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    broken: str  # empty: everything holds
    states: int
    trace: tuple[str, ...] = ()


def search(model: Model, *, limit: int, liveness: bool = True) -> Found:
    """Raises OverflowError beyond `limit` states: then nothing was shown."""
    first = model.essence(model.first)
    number = {first: 0}
    states: list[State] = [first]
    came: list[tuple[int, str]] = [(-1, "")]
    kind: list[tuple[int, int]] = []  # fault-free steps, from and to
    at = 0
    while at < len(states):
        for what, fault, after in model.steps(states[at]):
            then = model.essence(after)
            known = number.get(then)
            if known is None:
                known = number[then] = len(states)
                states.append(then)
                came.append((at, what))
                if broken := model.broken(then):
                    return Found(broken=broken, states=len(states), trace=_trace(came, known))
                if len(states) > limit:
                    raise OverflowError(f"more than {limit} states")
            if liveness and not fault and known != at:
                kind.append((at, known))
        at += 1
    lost = _lost(model, states, kind) if liveness else None
    if lost is not None:
        why = "L1: nothing that is no fault leads to its running again"
        return Found(broken=why, states=len(states), trace=_trace(came, lost))
    return Found(broken="", states=len(states))


def _lost(model: Model, states: list[State], kind: list[tuple[int, int]]) -> int | None:
    """The first state from which no fault-free way leads to where it runs (AG EF)."""
    back: dict[int, list[int]] = {}
    for source, target in kind:
        back.setdefault(target, []).append(source)
    saved = bytearray(model.runs(state) for state in states)
    ahead = [index for index, fine in enumerate(saved) if fine]
    while ahead:
        for source in back.get(ahead.pop(), ()):
            if not saved[source]:
                saved[source] = 1
                ahead.append(source)
    return next((index for index, fine in enumerate(saved) if not fine), None)


def _trace(came: list[tuple[int, str]], index: int) -> tuple[str, ...]:
    steps = []
    while index:
        index, what = came[index]
        steps.append(what)
    return tuple(reversed(steps))
