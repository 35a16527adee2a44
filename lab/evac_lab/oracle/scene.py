"""Everything that a check may look at, and where it says what it found."""

from __future__ import annotations

from dataclasses import dataclass, field

from evac_lab.oracle.control import Control
from evac_lab.oracle.database import Database
from evac_lab.oracle.rows import Picture
from evac_lab.oracle.talk import Talk
from evac_lab.oracle.timings import Timings
from evac_lab.oracle.told import Verdicts
from evac_lab.oracle.truth import Truth


@dataclass(slots=True, kw_only=True)
class Scene:
    database: Database
    timings: Timings
    picture: Picture = field(default_factory=Picture)
    truth: Truth = field(default_factory=Truth)
    talk: Talk = field(default_factory=Talk)
    control: Control = field(default_factory=Control)
    verdicts: Verdicts = field(default_factory=Verdicts)
    restores: int = 0  # how often the database went back in time

    def node_id(self, machine: str) -> str | None:
        """The enrolled node of that name; one that is recorded now before one that was."""
        known = [each.node_id for each in self.picture.declared.values() if each.name == machine]
        recorded = [node_id for node_id in known if node_id in self.picture.nodes]
        found = recorded or known
        return found[-1] if found else None

    def name(self, instance: str) -> str:
        spec = self.picture.specs.get(instance)
        return spec.name if spec else instance

    def wanted(self, instance: str) -> bool:
        spec = self.picture.specs.get(instance)
        return spec is not None and spec.wanted
