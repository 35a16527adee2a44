"""From a seed to a scenario: a cluster, its load, what goes wrong, and a calm at the end.

Pure: the same seed, size and version of this module give the same text, anywhere. What comes out
is an ordinary scenario document; a seed can be written down, read, cut down and replayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from evac_lab.hunt.spells import SPELLS, Cast, Family, strike
from evac_lab.hunt.stories import BESIDE, DEATHS, QUIET, Stage, release
from evac_lab.hunt.weave import Draw, Weave

CALM_S: Final = 660.0  # every fault is over; after this, everything must be as wanted
CALM_SHARE_MAX: Final = 0.5  # of a short run
OLD_DISK_BOOTS: Final = 3  # more than a node nearly ever boots between save and restore


class Mix(StrEnum):
    """What a seed has most of."""

    EVERYTHING = "everything"
    DEATHS = "deaths"  # nodes die, and little of what holds fencing off happens
    CONTROL = "control"
    BUS = "bus"
    NODES = "nodes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    nodes: int = 10
    instances: int = 50
    hours: float = 1.0

    @property
    def end_s(self) -> float:
        return self.hours * 3600.0

    @property
    def calm_from_s(self) -> float:
        return self.end_s - min(CALM_S, self.end_s * CALM_SHARE_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Seconds between faults, and how often each family is meant."""

    death_s: float
    spell_s: float
    beside: float
    families: Mapping[Family, float]


def _families(**weights: float) -> Mapping[Family, float]:
    return {family: weights.get(family.value, 1.0) for family in Family}


RATES: Final[Mapping[Mix, Rates]] = {
    Mix.EVERYTHING: Rates(death_s=40, spell_s=8, beside=0.8, families=_families()),
    Mix.DEATHS: Rates(
        death_s=27,
        spell_s=17,
        beside=0.6,
        families=_families(control=0.1, bus=0.05, clock=0.1, network=0.3, bmc=3),
    ),
    Mix.CONTROL: Rates(
        death_s=48, spell_s=7, beside=1.0, families=_families(control=5, clock=2, network=2)
    ),
    Mix.BUS: Rates(death_s=48, spell_s=8, beside=0.8, families=_families(bus=8)),
    Mix.NODES: Rates(
        death_s=40, spell_s=6.5, beside=0.5, families=_families(control=0.2, bus=0.1, node=3)
    ),
}
MIXES: Final[Mapping[Mix, float]] = {
    Mix.EVERYTHING: 3,
    Mix.DEATHS: 4,
    Mix.CONTROL: 2,
    Mix.BUS: 1.5,
    Mix.NODES: 2,
}


def plan(seed: int, size: Size, mix: Mix | None = None) -> dict[str, Any]:
    """The document of a seed, as a scenario file would hold it. `mix` None: drawn too."""
    draw = Draw(f"evac hunt {seed}")
    mix = draw.weighted(tuple(MIXES), tuple(MIXES.values())) if mix is None else mix
    nodes = {f"n{index}": _node(draw) for index in range(1, size.nodes + 1)}
    instances = {f"vm-{index}": _instance(draw) for index in range(1, size.instances + 1)}
    replicas = _replicas(draw)
    settings = _settings(draw)
    cast = Cast(
        nodes=tuple(nodes),
        instances=tuple(instances),
        api=_names("api", replicas),
        scheduler=_names("scheduler", replicas),
        monitor=_names("monitor", replicas),
    )
    weave = Weave(draw, until_s=size.calm_from_s)
    stage = Stage(
        weave=weave,
        cast=cast,
        without_bmc=frozenset(name for name, node in nodes.items() if "power" not in node),
        down_max=max(1, int(0.34 * size.nodes)),
        beside=QUIET if mix is Mix.DEATHS else BESIDE,
        beside_mean=RATES[mix].beside,
    )
    _deaths(stage, RATES[mix], patient="monitor.blast_window_s" not in settings)
    _spells(stage, RATES[mix])
    _users(stage, instances)
    _calm(stage, size)
    return {
        "name": f"hunt-{seed}",
        "replicas": replicas,
        "settings": settings,
        "nodes": nodes,
        "pools": {"shared": {"kind": "nfs", "nodes": list(nodes)}},
        "instances": instances,
        "timeline": [f"at {at_s:g} {text}" for at_s, text in weave.lines()],
        "expect": ["no violations"],
    }


def _names(service: str, replicas: Mapping[str, int]) -> tuple[str, ...]:
    """All replicas at once, and each of several."""
    count = replicas[service]
    return (service, *(f"{service}-{index}" for index in range(1, count + 1) if count > 1))


def _replicas(draw: Draw) -> dict[str, int]:
    return {
        "api": 1,
        "scheduler": 2 if draw.chance(0.15) else 1,
        "monitor": 2 if draw.chance(0.15) else 1,
    }


def _settings(draw: Draw) -> dict[str, float]:
    """Most seeds allow fencing often; some are as in production."""
    settings: dict[str, float] = {}
    if draw.chance(0.85):
        settings["monitor.blast_window_s"] = 60
    if draw.chance(0.6):
        settings["monitor.hold_off_s"] = 15
    return settings


def _node(draw: Draw) -> dict[str, Any]:
    node: dict[str, Any] = {"vcpus": 32, "memory_mib": 65536}
    if not draw.chance(0.04):
        node["power"] = "ipmi"
    return node


def _instance(draw: Draw) -> dict[str, Any]:
    instance: dict[str, Any] = {
        "vcpus": draw.one((1, 2, 4)),
        "memory_mib": draw.one((512, 2048, 8192)),
        "priority": draw.whole(1, 5),
    }
    if draw.chance(0.85):
        instance["disks"] = [{"pool": "shared"}]
    if draw.chance(0.06):
        instance["run_strategy"] = "Halted"
    return instance


def _moments(draw: Draw, mean_s: float, until_s: float) -> Sequence[float]:
    found, at_s = [], draw.pause(mean_s)
    while at_s < until_s:
        found.append(at_s)
        at_s += draw.pause(mean_s)
    return found


def _deaths(stage: Stage, rates: Rates, *, patient: bool) -> None:
    """`patient`: a storm lasts until the operator ends it, so that one looks after each death."""
    weave, draw = stage.weave, stage.weave.draw
    stories, weights = zip(*DEATHS, strict=True)
    for at_s in _moments(draw, rates.death_s, weave.until_s):
        happened = draw.weighted(stories, weights)(stage, at_s)
        if happened and (patient or draw.chance(0.1)):
            release(stage, at_s + draw.between(50, 150))


def _spells(stage: Stage, rates: Rates) -> None:
    weights = [spell.weight * rates.families[spell.family] for spell in SPELLS]
    draw = stage.weave.draw
    for at_s in _moments(draw, rates.spell_s, stage.weave.until_s):
        strike(stage.weave, stage.cast, draw.weighted(SPELLS, weights), at_s)


def _users(stage: Stage, instances: Mapping[str, Mapping[str, Any]]) -> None:
    """Users create, start, stop and delete meanwhile. Declared instances end as declared."""
    weave, draw = stage.weave, stage.weave.draw
    wanted = [name for name, each in instances.items() if "run_strategy" not in each]
    again: dict[str, None] = {}  # a start may have met a dead api: it is said again in the calm
    for number, at_s in enumerate(_moments(draw, 240, weave.until_s), 1):
        if draw.chance(0.6):
            span = weave.span(at_s, draw.scale(5, 600))
            name = draw.one(wanted)
            if span is not None and weave.take(f"intent of {name}", span):
                weave.say(span.begin_s, f"evac? instance stop {name} --reason user --no-wait")
                weave.say(span.end_s, f"evac? instance start {name} --reason user --no-wait")
                again.setdefault(name)
        else:
            name = f"job-{number}"
            weave.say(at_s, f"evac? instance create {name} --vcpus 1 --memory 512MiB --disk shared")
            if draw.chance(0.6):
                gone_s = min(at_s + draw.scale(5, 900), weave.until_s + 30)
                weave.say(gone_s, f"evac? instance delete {name} --no-wait")
    for name in again:
        weave.say(weave.until_s + 30, f"evac? instance start {name} --reason user --no-wait")


def _calm(stage: Stage, size: Size) -> None:
    """All that is off is switched on, and the operator ends what storms are left.

    What evac leaves to a person is done too. A node without a BMC that was silent for too long is
    blocked, also when it talks again, until it boots anew. A node whose disk was put back from an
    image is refused until its boots have raised its incarnation above what it was before.
    """
    weave = stage.weave
    boots = dict.fromkeys(stage.without_bmc, 1)
    for _, text in weave.lines():
        verb, thing, *rest = text.split()
        if (verb, rest) == ("disk", ["restore"]):
            boots[thing] = OLD_DISK_BOOTS
    for index, node in enumerate(stage.cast.nodes):
        at_s = weave.until_s + 2 + 0.1 * index
        for boot in range(boots.get(node, 0)):
            weave.say(at_s + 6 * boot, f"power {node} off")
            weave.say(at_s + 6 * boot + 3, f"power {node} on")
        if node not in boots:
            weave.say(at_s, f"power {node} on")
    calm_s = size.end_s - size.calm_from_s
    for share in (0.08, 0.2, 0.4):
        weave.say(
            weave.until_s + share * calm_s,
            "evac? cluster storm release --reason looked --no-wait",
        )
    weave.say(size.end_s, "end")
