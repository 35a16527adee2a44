"""What can go wrong, and how long it lasts: a row for each fault that ends by a line or by itself.

Deaths of nodes are not here: they are stories of several lines (`stories`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from evac_lab.hunt.weave import Weave

Lasts = tuple[float, float]  # seconds, from and to


class Family(StrEnum):
    """Faults of one kind of world; a seed has much of some of them and little of the others."""

    CONTROL = "control"  # the controllers and their database
    BUS = "bus"  # the broker and every message
    NODE = "node"  # the daemon, libvirt and storage of a node
    BMC = "bmc"
    GUEST = "guest"
    CLOCK = "clock"
    NETWORK = "network"  # short and one-way cuts


class On(StrEnum):
    """What a fault is of. Two faults of one thing never touch."""

    NODE = "node"
    INSTANCE = "instance"
    API = "api"
    SCHEDULER = "scheduler"
    MONITOR = "monitor"
    CLUSTER = "cluster"  # there is only one


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """`{it}` is the node, service or instance; `{share}`, `{times}`, `{jump}`, `{rate}` are drawn.

    `thing` is what is busy meanwhile. `ends` empty: it ends by itself.
    """

    family: Family
    on: On
    thing: str
    begins: str
    ends: str = ""
    lasts_s: tuple[float, float] = (1.0, 1.0)
    weight: float = 1.0
    # Seconds before the calm in which it must not begin: what it leaves behind takes its time.
    early_s: float = 0.0


def _services() -> list[Spell]:
    found = []
    for on, weight in ((On.API, 1.2), (On.SCHEDULER, 1.5), (On.MONITOR, 1.2)):
        process = Spell(family=Family.CONTROL, on=on, thing="process of {it}", begins="kill {it}")
        found += [
            replace(process, lasts_s=(6, 10), weight=2 * weight),
            replace(
                process, begins="hang {it}", ends="resume {it}", lasts_s=(1, 90), weight=weight
            ),
            replace(process, begins="stop {it}", ends="start {it}", lasts_s=(1, 90), weight=weight),
            *(
                Spell(
                    family=Family.NETWORK,
                    on=on,
                    thing=f"way of {{it}} to {peer}",
                    begins=f"network {{it}} off from {peer}{way}",
                    ends=f"network {{it}} on from {peer}{way}",
                    lasts_s=(1, 90),
                    weight=weight / 4,
                )
                for peer in ("broker", "database")
                for way in ("", " in", " out")
            ),
        ]
    return found


def _node() -> list[Spell]:
    def of(thing: str, begins: str, ends: str = "", *, lasts_s: Lasts, weight: float = 1) -> Spell:
        return Spell(
            family=Family.NODE,
            on=On.NODE,
            thing=f"{thing} of {{it}}",
            begins=begins,
            ends=ends,
            lasts_s=lasts_s,
            weight=weight,
        )

    ways = [
        Spell(
            family=Family.NETWORK,
            on=On.NODE,
            thing="way of {it}",
            begins=f"network {{it}} off{way}",
            ends=f"network {{it}} on{way}",
            lasts_s=(1, 18),
            weight=0.5,
        )
        for way in ("", " in", " out", " from broker in", " from broker out")
    ]
    return [
        of("daemon", "kill compute@{it}", lasts_s=(6, 10), weight=3),
        of("daemon", "hang compute@{it}", "resume compute@{it}", lasts_s=(1, 18), weight=1.5),
        of("daemon", "stop compute@{it}", "start compute@{it}", lasts_s=(1, 15)),
        of("storage", "storage {it} off", "storage {it} on", lasts_s=(5, 200)),
        of("storage", "storage {it} slow", "storage {it} on", lasts_s=(10, 300)),
        of("storage", "storage {it} locked", "storage {it} on", lasts_s=(5, 200)),
        of("libvirt", "libvirt {it} hang", "libvirt {it} resume", lasts_s=(2, 300)),
        of("libvirt", "libvirt {it} kill", lasts_s=(6, 10)),
        of("libvirt", "libvirt {it} slow", "libvirt {it} resume", lasts_s=(10, 400)),
        *ways,
    ]


def _shared() -> list[Spell]:
    def of(thing: str, begins: str, ends: str = "", *, lasts_s: Lasts, weight: float = 1) -> Spell:
        return Spell(
            family=Family.BUS if thing == "broker" else Family.CONTROL,
            on=On.CLUSTER,
            thing=thing,
            begins=begins,
            ends=ends,
            lasts_s=lasts_s,
            weight=weight,
        )

    noise = [
        Spell(
            family=Family.BUS,
            on=On.CLUSTER,
            thing=f"noise {kind}",
            begins=f"bus {kind} {{share}}",
            ends=f"bus {kind} 0",
            lasts_s=(10, 200),
            weight=1.5,
        )
        for kind in ("lose", "duplicate", "delay", "reorder")
    ]
    return [
        of("broker", "broker off", "broker on", lasts_s=(1, 120), weight=1.5),
        of("broker", "broker alarm", "broker on", lasts_s=(1, 120)),
        *noise,
        of("database", "database off", "database on", lasts_s=(1, 90)),
        of("database", "database slow", "database on", lasts_s=(5, 120)),
        of("database", "database readonly", "database on", lasts_s=(1, 90)),
        of("database", "database lose-ack {times}", lasts_s=(1, 5), weight=2),
    ]


def _rest() -> list[Spell]:
    guest = Spell(
        family=Family.GUEST,
        on=On.INSTANCE,
        thing="{it}",
        begins="",
        lasts_s=(5, 30),
        early_s=330,  # the pause before a restart in place grows to 300 s
    )
    return [
        *(
            Spell(
                family=Family.BMC,
                on=On.NODE,
                thing="bmc of {it}",
                begins=f"bmc {{it}} {state}",
                ends="bmc {it} on",
                lasts_s=(10, 300),
            )
            for state in ("off", "slow", "lies", "wrong")
        ),
        *(
            replace(guest, begins=f"guest {{it}} {what}", weight=2)
            for what in ("poweroff", "crash", "panic", "hang", "lost")
        ),
        replace(guest, begins="guest {it} refuse-start {times}", weight=2),
        replace(guest, begins="guest {it} die-early {times}", weight=2),
        *(
            Spell(
                family=Family.CLOCK,
                on=on,
                thing="clock of {it}",
                begins=begins,
                ends=ends,
                lasts_s=(5, 300),
                weight=weight,
            )
            for on, weight in (
                (On.NODE, 1.0),
                (On.API, 0.6),
                (On.SCHEDULER, 1.0),
                (On.MONITOR, 1.0),
            )
            for begins, ends in (
                ("clock {it} jump {jump}", "clock {it} jump -{jump}"),
                ("clock {it} rate {rate}", "clock {it} rate 0"),
            )
        ),
    ]


SPELLS: Final[tuple[Spell, ...]] = (*_services(), *_node(), *_shared(), *_rest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Who can be struck, by name."""

    nodes: Sequence[str]
    instances: Sequence[str]
    api: Sequence[str]
    scheduler: Sequence[str]
    monitor: Sequence[str]

    def of(self, on: On) -> Sequence[str]:
        match on:
            case On.NODE:
                return self.nodes
            case On.INSTANCE:
                return self.instances
            case On.API:
                return self.api
            case On.SCHEDULER:
                return self.scheduler
            case On.MONITOR:
                return self.monitor
            case On.CLUSTER:
                return ("cluster",)


def strike(weave: Weave, cast: Cast, spell: Spell, at_s: float, it: str | None = None) -> bool:
    """Say a fault and its end. False when its thing is busy or the calm is too near."""
    draw = weave.draw
    names = cast.of(spell.on)
    it = it or draw.one(names)
    span = weave.span(at_s, draw.scale(*spell.lasts_s))
    if span is None or at_s > weave.until_s - spell.early_s:
        return False
    if not weave.take(spell.thing.format(it=it), span):
        return False
    drawn = {
        "it": it,
        "share": draw.one((1, 3, 10, 30)),
        "times": draw.whole(1, 3),
        "jump": draw.one((3, 40, 600, 3600)),
        "rate": draw.one((1, -1)),
    }
    if draw.chance(0.5) and "jump -" in spell.ends:
        drawn["jump"] = -int(str(drawn["jump"]))
    weave.say(span.begin_s, spell.begins.format(**drawn))
    if spell.ends:
        weave.say(span.end_s, spell.ends.format(**drawn).replace("--", ""))
    return True
