"""From a line of the time line to its value; every form with an example and its meaning.

The reference page of the scenario format is written from FORMS, and a test reads every example, so
a verb that is not explained cannot be used and an explanation that is not true is found.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to write a line, for the reference page."""

    form: str
    example: str  # with its time: a whole line
    meaning: str

    @property
    def verb(self) -> str:
        return self.form.split()[0]


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

# -- what the reference page says ----------------------------------------------------------------

FORMS: Final[tuple[Form, ...]] = (
    Form(
        form="power NODE off|on",
        example="at 10 power n1 off",
        meaning="The plug of the node is pulled: daemon and guests are gone at once, its disk "
        "stays. `on`: it boots with another boot id and starts its daemon.",
    ),
    Form(
        form="shutdown NODE",
        example="at 10 shutdown n1",
        meaning="An orderly shutdown: every guest is stopped and reported as stopped, then the "
        "power is off until `power NODE on`.",
    ),
    Form(
        form="reboot NODE",
        example="at 10 reboot n1",
        meaning="As `shutdown`; the power is on again 30 s after it went off.",
    ),
    Form(
        form="network ENDPOINT off|on [from PEER] [in|out]",
        example="at 10 network n1 off from broker out",
        meaning="The way between ENDPOINT (a node, `api`, `scheduler`, `monitor`, or one replica) "
        "and PEER (`broker`, `database`, `storage` or a node) is cut or healed. Without "
        "PEER: everything that ENDPOINT talks to. `in` or `out`: only that direction, seen "
        "from ENDPOINT. BMCs have a network of their own and are never touched by it.",
    ),
    Form(
        form="kill SERVICE[@NODE]",
        example="at 10 kill compute@n1",
        meaning="kill -9 in the middle of whatever it does; its supervisor starts it again after 5 "
        "s. A killed daemon touches no guest.",
    ),
    Form(
        form="stop SERVICE[@NODE]",
        example="at 10 stop monitor",
        meaning="The service manager stops it (SIGTERM, it ends in good order) and it stays stopped"
        " until `start`. A stopped daemon touches no guest.",
    ),
    Form(
        form="start SERVICE[@NODE]",
        example="at 90 start monitor",
        meaning="The service manager starts it again after `stop`.",
    ),
    Form(
        form="hang SERVICE[@NODE]",
        example="at 10 hang scheduler-1",
        meaning="SIGSTOP: it does nothing, but its connections stay open and time goes on.",
    ),
    Form(
        form="resume SERVICE[@NODE]",
        example="at 70 resume scheduler-1",
        meaning="SIGCONT after `hang`: it goes on where it was, with timers long overdue.",
    ),
    Form(
        form="broker off|on|alarm",
        example="at 10 broker off",
        meaning="`off`: the broker is killed with kill -9; durable queues and messages are on its "
        "disk. `alarm`: a memory or disk alarm, publishes hang. `on`: all is well again.",
    ),
    Form(
        form="database off|on|slow|readonly",
        example="at 10 database off",
        meaning="`off`: no connection works. `slow`: every answer takes long. `readonly`: writes "
        "are refused. `on`: all is well again.",
    ),
    Form(
        form="database lose-ack [TIMES]",
        example="at 10 database lose-ack 3",
        meaning="The next TIMES commits (1 unless given) happen, and whoever asked for them sees "
        "only its connection end.",
    ),
    Form(
        form="database save|restore",
        example="at 10 database save",
        meaning="`save` remembers the content, `restore` goes back to it: a backup was restored. "
        "From then on it is another database, and it says so.",
    ),
    Form(
        form="bus lose|duplicate|delay|reorder PERCENT",
        example="at 10 bus duplicate 20",
        meaning="From now on this share of all messages, each on its way in and on its way out, is "
        "lost, comes twice, late, or after its successor. Several kinds add up; 0 ends one "
        "kind.",
    ),
    Form(
        form="bus calm",
        example="at 60 bus calm",
        meaning="All noise on the bus ends.",
    ),
    Form(
        form="bmc NODE off|on|slow|lies|wrong",
        example="at 5 bmc n1 lies",
        meaning="The node's BMC: `off` does not answer, `slow` answers after 60 s, `lies` accepts "
        "the order and does nothing, `wrong` is that of another machine, `on` is well "
        "again.",
    ),
    Form(
        form="storage NODE off|on|slow|locked",
        example="at 10 storage n1 off",
        meaning="The node's way to the shared storage: `off` lets I/O and starts hang, `slow` makes"
        " a start take 10 s longer, `locked` refuses starts because image locks are left "
        "over (`storage_locked`), `on` is well again.",
    ),
    Form(
        form="libvirt NODE hang|resume|kill|slow",
        example="at 10 libvirt n1 hang",
        meaning="The node's libvirt: `hang` lets calls hang, `kill` loses the connection and is "
        "back after 5 s, `slow` makes starts take 300 s, `resume` is well again. Guests "
        "live on.",
    ),
    Form(
        form="guest INSTANCE poweroff|crash|panic|hang|lost",
        example="at 10 guest web-1 crash",
        meaning="What the guest does by itself: it shuts down, its qemu dies, its kernel panics, it"
        " executes and does nothing, or it ends and the hypervisor forgets it without a "
        "word.",
    ),
    Form(
        form="guest INSTANCE refuse-start|die-early [TIMES]",
        example="at 10 guest web-1 refuse-start 2",
        meaning="The next TIMES starts of it (1 unless given), on any node, fail, or the guest ends"
        " 1 s after its start.",
    ),
    Form(
        form="disk NODE save|restore",
        example="at 10 disk n1 save",
        meaning="The node's own disk with its daemon's journal (not the guests' disks): remembered,"
        " or gone back to. `restore` only while the node is off.",
    ),
    Form(
        form="identity NODE of NODE2",
        example="at 10 identity n2 of n1",
        meaning="From its next boot the node's daemon has NODE2's identity and credentials, as "
        "after cloning a disk.",
    ),
    Form(
        form="identity NODE own",
        example="at 90 identity n2 own",
        meaning="From its next boot it is itself again.",
    ),
    Form(
        form="clock TARGET jump SECONDS",
        example="at 10 clock monitor jump -3600",
        meaning="The wall clock of a node or service is set forward, or back when negative.",
    ),
    Form(
        form="clock TARGET rate PERCENT",
        example="at 10 clock n1 rate 1",
        meaning="The clocks of a node or service run so much fast (slow when negative, well again "
        "with 0): all that it waits for comes too early.",
    ),
    Form(
        form="evac ARGS...",
        example='at 30 evac node fence n1 --reason "smoke in the rack"',
        meaning="A command of the operator (docs/reference/commands.md), with quotes as in a shell."
        " Time goes on while it waits. If it fails, the run fails.",
    ),
    Form(
        form="evac? ARGS...",
        example='at 30 evac? node confirm-down n1 --reason "looks dead"',
        meaning="The same, and it may fail: the log shows its exit code either way.",
    ),
    Form(
        form="end",
        example="at 300 end",
        meaning="The run ends and the expectations are judged. The last line, and no other.",
    ),
)
