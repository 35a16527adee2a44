"""From a line of the time line to its value, in the forms of `forms.FORMS`."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, TypeVar

from evac_lab.scenario.forms import FORMS
from evac_lab.scenario.timeline import (
    COMPUTE,
    CONTROLLERS,
    SHARED_PARTS,
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
    Direction,
    Disk,
    DiskAct,
    End,
    GuestAct,
    GuestWhat,
    Hang,
    Identity,
    Kill,
    Libvirt,
    LibvirtState,
    Network,
    Noise,
    Orderly,
    Power,
    Resume,
    ServiceAct,
    Start,
    Step,
    Stop,
    Storage,
    StorageState,
    controller_of,
)

_AT = re.compile(r"^at\s+(\d+(?:\.\d+)?)\s+(.+)$")
TIMES_MAX: Final = 1000
AT_MAX_S: Final = 30 * 86400.0
JUMP_MAX_S: Final = 10 * 366 * 86400.0
RATE_MAX_PERCENT: Final = 50.0

State = TypeVar("State", bound=StrEnum)


class NotUnderstood(ValueError):
    """A line of the time line or of the expectations is not one of the forms."""


def parse_step(line: str) -> Step:
    """Read one line. Raises NotUnderstood saying what was expected."""
    match = _AT.match(line.strip())
    if match is None:
        raise NotUnderstood("expected `at SECONDS ACTION`, SECONDS from 0 on, decimals allowed")
    at_s = float(match.group(1))
    if at_s > AT_MAX_S:
        raise NotUnderstood(f"at: at most {AT_MAX_S:.0f} seconds")
    said = match.group(2).strip()
    words = said.split()
    text = said if words[0] in {"evac", "evac?"} else " ".join(words)
    return Step(at_s=at_s, text=text, action=_action(text))


def _action(text: str) -> Action:
    verb, *rest = text.split()
    if verb in {"evac", "evac?"}:
        return _command(text, may_fail=verb == "evac?")
    reader = _READERS.get(verb)
    if reader is None:
        raise NotUnderstood(f"{verb!r} is no action; known are {', '.join(VERBS)}")
    return reader(verb, rest)


def _expected(verb: str) -> NotUnderstood:
    forms = " or ".join(f"`{form.form}`" for form in FORMS if form.verb == verb)
    return NotUnderstood(f"{verb}: expected {forms}")


def _state(verb: str, kind: type[State], word: str) -> State:
    try:
        return kind(word)
    except ValueError as error:
        raise _expected(verb) from error


def _times(verb: str, words: list[str]) -> int:
    """The optional last word. Raises NotUnderstood when it is no count."""
    match words:
        case []:
            return 1
        case [word] if word.isdecimal() and 1 <= int(word) <= TIMES_MAX:
            return int(word)
        case [word]:
            raise NotUnderstood(f"{verb}: TIMES is from 1 to {TIMES_MAX}, not {word!r}")
        case _:
            raise _expected(verb)


def _number(verb: str, what: str, word: str, *, low: float, high: float) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not low <= value <= high:  # also catches nan
        raise NotUnderstood(f"{verb}: {what} is a number from {low:g} to {high:g}, not {word!r}")
    return value


def _on_or_off(verb: str, word: str) -> bool:
    if word not in {"on", "off"}:
        raise _expected(verb)
    return word == "on"


# -- one reader a verb ---------------------------------------------------------------------------


def _power(verb: str, words: list[str]) -> Action:
    match words:
        case [node, state]:
            return Power(node=node, on=_on_or_off(verb, state))
        case _:
            raise _expected(verb)


def _orderly(verb: str, words: list[str]) -> Action:
    match words:
        case [node]:
            return Orderly(node=node, back=verb == "reboot")
        case _:
            raise _expected(verb)


def _network(verb: str, words: list[str]) -> Action:
    direction = Direction.BOTH
    if len(words) > 2 and words[-1] in {Direction.IN, Direction.OUT}:
        direction = Direction(words[-1])
        words = words[:-1]
    match words:
        case [endpoint, state]:
            peer = None
        case [endpoint, state, "from", peer]:
            pass
        case _:
            raise _expected(verb)
    on = _on_or_off(verb, state)
    _refuse_no_way(endpoint, peer)
    return Network(endpoint=endpoint, on=on, peer=peer, direction=direction)


def _refuse_no_way(endpoint: str, peer: str | None) -> None:
    """Raises NotUnderstood for two ends that never talk: such a line would do nothing."""
    if endpoint in SHARED_PARTS or endpoint.partition("@")[0] == COMPUTE:
        raise NotUnderstood(
            f"network: the endpoint is a node or {', '.join(CONTROLLERS)}, not {endpoint!r}"
        )
    if peer is None:
        return
    if controller_of(peer) is not None or peer.partition("@")[0] == COMPUTE:
        raise NotUnderstood(
            f"network: the peer is a node or {', '.join(SHARED_PARTS)}, not {peer!r}"
        )
    if endpoint == peer:
        raise NotUnderstood(f"network: {endpoint!r} is both ends of the way")
    if controller_of(endpoint) is None:
        if peer == "database":
            raise NotUnderstood("network: a node never talks to the database")
    elif peer == "storage":
        raise NotUnderstood("network: only nodes talk to the storage")


_SERVICE_ACTS: Final[Mapping[str, type[ServiceAct]]] = {
    "kill": Kill,
    "stop": Stop,
    "start": Start,
    "hang": Hang,
    "resume": Resume,
}


def _service(verb: str, words: list[str]) -> Action:
    match words:
        case [target]:
            service, at, node = target.partition("@")
        case _:
            raise _expected(verb)
    if service == COMPUTE:
        if not node:
            raise NotUnderstood(f"{verb}: `{COMPUTE}@NODE` names the node of the daemon")
        return _SERVICE_ACTS[verb](service=service, node=node)
    if controller_of(service) is None:
        raise NotUnderstood(
            f"{verb}: the service is one of {', '.join(CONTROLLERS)}, one replica of them as in "
            f"`monitor-2`, or `{COMPUTE}@NODE`, not {target!r}"
        )
    if at:
        raise NotUnderstood(f"{verb}: {service} runs on no node; only `{COMPUTE}@NODE` does")
    return _SERVICE_ACTS[verb](service=service, node=None)


def _broker(verb: str, words: list[str]) -> Action:
    match words:
        case [state]:
            return Broker(state=_state(verb, BrokerState, state))
        case _:
            raise _expected(verb)


def _database(verb: str, words: list[str]) -> Action:
    match words:
        case [DatabaseState.LOSE_ACK, *times]:
            return Database(state=DatabaseState.LOSE_ACK, times=_times(verb, times))
        case [state]:
            return Database(state=_state(verb, DatabaseState, state), times=1)
        case _:
            raise _expected(verb)


def _bus(verb: str, words: list[str]) -> Action:
    match words:
        case [Noise.CALM]:
            return BusNoise(kind=Noise.CALM, percent=0.0)
        case [kind, percent] if kind != Noise.CALM:
            noise = _state(verb, Noise, kind)
            return BusNoise(
                kind=noise, percent=_number(verb, "PERCENT", percent, low=0.0, high=100.0)
            )
        case _:
            raise _expected(verb)


def _bmc(verb: str, words: list[str]) -> Action:
    match words:
        case [node, state]:
            return Bmc(node=node, state=_state(verb, BmcState, state))
        case _:
            raise _expected(verb)


def _storage(verb: str, words: list[str]) -> Action:
    match words:
        case [node, state]:
            return Storage(node=node, state=_state(verb, StorageState, state))
        case _:
            raise _expected(verb)


def _libvirt(verb: str, words: list[str]) -> Action:
    match words:
        case [node, state]:
            return Libvirt(node=node, state=_state(verb, LibvirtState, state))
        case _:
            raise _expected(verb)


def _guest(verb: str, words: list[str]) -> Action:
    match words:
        case [instance, (GuestWhat.REFUSE_START | GuestWhat.DIE_EARLY) as what, *times]:
            return GuestAct(instance=instance, what=GuestWhat(what), times=_times(verb, times))
        case [instance, what]:
            return GuestAct(instance=instance, what=_state(verb, GuestWhat, what), times=1)
        case _:
            raise _expected(verb)


def _disk(verb: str, words: list[str]) -> Action:
    match words:
        case [node, what]:
            return Disk(node=node, what=_state(verb, DiskAct, what))
        case _:
            raise _expected(verb)


def _identity(verb: str, words: list[str]) -> Action:
    match words:
        case [node, "own"]:
            return Identity(node=node, of=None)
        case [node, "of", other] if node != other:
            return Identity(node=node, of=other)
        case _:
            raise _expected(verb)


def _clock(verb: str, words: list[str]) -> Action:
    match words:
        case [target, "jump", seconds]:
            jump_s = _number(verb, "SECONDS", seconds, low=-JUMP_MAX_S, high=JUMP_MAX_S)
            return ClockJump(target=target, seconds=jump_s)
        case [target, "rate", percent]:
            rate = _number(verb, "PERCENT", percent, low=-RATE_MAX_PERCENT, high=RATE_MAX_PERCENT)
            return ClockRate(target=target, percent=rate)
        case _:
            raise _expected(verb)


def _command(text: str, *, may_fail: bool) -> Action:
    try:
        _, *argv = shlex.split(text)
    except ValueError as error:
        raise NotUnderstood(f"evac: cannot be split into words: {error}") from error
    if not argv:
        raise _expected("evac")
    return Command(argv=tuple(argv), may_fail=may_fail)


def _end(verb: str, words: list[str]) -> Action:
    if words:
        raise _expected(verb)
    return End()


_READERS: Final[Mapping[str, Callable[[str, list[str]], Action]]] = {
    "power": _power,
    "shutdown": _orderly,
    "reboot": _orderly,
    "network": _network,
    **dict.fromkeys(_SERVICE_ACTS, _service),
    "broker": _broker,
    "database": _database,
    "bus": _bus,
    "bmc": _bmc,
    "storage": _storage,
    "libvirt": _libvirt,
    "guest": _guest,
    "disk": _disk,
    "identity": _identity,
    "clock": _clock,
    "end": _end,
}
VERBS: Final = (*(verb for verb in _READERS if verb != "end"), "evac", "end")
