"""Which seeds are tried for a mutant: the hunt's own generator, turned towards one kind of trouble.

A focus chooses among the hunt's stories and spells and says how dense they are; which nodes, when,
for how long and beside what else is drawn from the seed, as in any hunt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from evac_lab.hunt import plan as hunting
from evac_lab.hunt import stories
from evac_lab.hunt.plan import Size
from evac_lab.hunt.spells import SPELLS, Cast, On, Spell, strike
from evac_lab.hunt.stories import DEATHS, Stage, Story
from evac_lab.hunt.weave import Draw, Weave
from evac_lab.hunt.written import scenario_of
from evac_lab.scenario.reading import Scenario

SEEDS: Final = 500  # within so many each mutant must be found
SIZE: Final = Size(nodes=12, instances=36, hours=0.5)
NEVER_S: Final = 1e9


def chosen(*begins: str, on: On | None = None) -> tuple[Spell, ...]:
    """The hunt's spells that begin with these words. Raises LookupError when there is none."""
    found = tuple(
        spell
        for spell in SPELLS
        if spell.begins.startswith(begins) and (on is None or spell.on is on)
    )
    if not found:
        raise LookupError(f"the hunt has no spell {begins}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Focus:
    """`spell_s`, `death_s`: seconds between two. `users`: how busy they are.

    `calm`: what is looked for shows itself only when all is well again.
    """

    death_s: float = 40.0
    deaths: Sequence[tuple[Story, float]] = DEATHS
    beside: Sequence[Spell] = ()
    beside_mean: float = 0.5
    spell_s: float = NEVER_S
    spells: Sequence[Spell] = ()
    users: int = 1
    replicas: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)
    size: Size = SIZE
    calm: bool = False

    def scenario(self, seed: int) -> Scenario:
        document = self._document(seed)
        if not self.calm:
            until_s = self.size.calm_from_s
            lines = [line for line in document["timeline"] if float(line.split()[1]) < until_s]
            document["timeline"] = [*lines, f"at {until_s:g} end"]
        return scenario_of(document)

    def _document(self, seed: int) -> dict[str, Any]:
        draw, size = Draw(f"evac mutants {seed}"), self.size
        nodes = {f"n{index}": hunting._node(draw) for index in range(1, size.nodes + 1)}
        instances = {
            f"vm-{index}": hunting._instance(draw) for index in range(1, size.instances + 1)
        }
        replicas = {"api": 1, "scheduler": 1, "monitor": 1, **self.replicas}
        weave = Weave(draw, until_s=size.calm_from_s)
        stage = Stage(
            weave=weave,
            cast=Cast(
                nodes=tuple(nodes),
                instances=tuple(instances),
                api=hunting._names("api", replicas),
                scheduler=hunting._names("scheduler", replicas),
                monitor=hunting._names("monitor", replicas),
            ),
            without_bmc=frozenset(name for name, node in nodes.items() if "power" not in node),
            down_max=max(1, int(0.34 * size.nodes)),
            beside=self.beside,
            beside_mean=self.beside_mean if self.beside else 0.0,
        )
        self._happen(stage)
        for _ in range(self.users):
            hunting._users(stage, instances)
        hunting._calm(stage, size)
        return {
            "name": f"mutants-{seed}",
            "replicas": replicas,
            "settings": {
                "monitor.blast_window_s": 60,
                "monitor.hold_off_s": 15,
                **self.settings,
            },
            "nodes": nodes,
            "pools": {"shared": {"kind": "nfs", "nodes": list(nodes)}},
            "instances": instances,
            "timeline": [f"at {at_s:g} {text}" for at_s, text in weave.lines()],
            "expect": ["no violations"],
        }

    def _happen(self, stage: Stage) -> None:
        weave, draw = stage.weave, stage.weave.draw
        told, weights = zip(*self.deaths, strict=True)
        for at_s in hunting._moments(draw, self.death_s, weave.until_s):
            draw.weighted(told, weights)(stage, at_s)
            if draw.chance(0.5):
                stories.release(stage, at_s + draw.between(30, 60))
        for at_s in hunting._moments(draw, self.spell_s, weave.until_s):
            spell = draw.weighted(self.spells, [each.weight for each in self.spells])
            strike(weave, stage.cast, spell, at_s)


CUTS: Final = ((stories.cut_off, 1.0), (stories.silent_daemon, 0.3))
BLIPS: Final = ((stories.power_blip, 1.0), (stories.power_cut, 0.2))

# Of the shares that the hunt draws from, the greatest; commands are few beside reports and events.
HEAVY_LOSS: Final = replace(chosen("bus lose")[0], begins="bus lose 30", weight=3.0)

FOCI: Final[Mapping[str, Focus]] = {
    "cuts": Focus(deaths=CUTS, death_s=40),
    "bmcs": Focus(deaths=CUTS, death_s=25, beside=chosen("bmc"), beside_mean=1.0),
    "boots": Focus(deaths=((stories.power_cut, 1.0),), death_s=30),
    "blips": Focus(deaths=BLIPS, death_s=12, users=8),
    "late-proofs": Focus(
        deaths=BLIPS,
        death_s=12,
        beside=chosen("network {it} off from database", on=On.MONITOR),
        beside_mean=3.0,
        replicas={"monitor": 2},
        size=Size(nodes=12, instances=24, hours=0.5),
    ),
    "late-events": Focus(
        deaths=BLIPS,
        death_s=20,
        spells=(
            *chosen("bus delay", "bus reorder", "bus duplicate"),
            *chosen("hang", on=On.SCHEDULER),
        ),
        spell_s=40,
        replicas={"scheduler": 2},
    ),
    "lost-starts": Focus(
        deaths=((stories.power_cut, 1.0),),
        death_s=30,
        spells=(
            *chosen("bus lose"),
            *chosen("broker"),
            *chosen("kill", "network {it} off from broker", on=On.SCHEDULER),
        ),
        spell_s=30,
        users=3,
    ),
    "lost-for-good": Focus(
        deaths=((stories.power_cut, 1.0),),
        death_s=12,
        spells=(HEAVY_LOSS, *chosen("kill", on=On.SCHEDULER)),
        spell_s=12,
        users=12,
        size=Size(nodes=8, instances=32, hours=0.37),
        calm=True,
    ),
    "slow-starts": Focus(
        deaths=((stories.power_cut, 1.0),),
        death_s=30,
        spells=(
            *chosen("storage", "libvirt {it} hang", "libvirt {it} slow", "network", on=On.NODE),
        ),
        spell_s=15,
    ),
    "late-words": Focus(
        death_s=120,
        deaths=((stories.power_cut, 1.0),),
        spells=chosen("bus duplicate", "bus delay", "guest {it} refuse-start"),
        spell_s=20,
        users=12,
    ),
    "deletes": Focus(death_s=120, deaths=((stories.power_cut, 1.0),), users=4),
    "restores": Focus(
        deaths=(
            (stories.backup_restored, 2.0),
            (stories.power_cut, 1.0),
            (stories.cut_off, 0.5),
        ),
        death_s=25,
        users=4,
    ),
    "racks": Focus(deaths=((stories.rack, 1.0),), death_s=200),
}
