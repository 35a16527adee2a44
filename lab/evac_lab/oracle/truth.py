"""What the hardware really did, as told by its witness calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False, kw_only=True)
class Life:
    """One execution of a guest. `incarnation`: the node's, as its daemon told it last before."""

    node: str
    instance: str
    epoch: int
    run: int
    boot: int
    incarnation: int
    began_s: float
    ended_s: float | None = None

    def __str__(self) -> str:
        return f"{self.instance} epoch {self.epoch} run {self.run} on {self.node}"


@dataclass(slots=True, eq=False, kw_only=True)
class Machine:
    name: str
    on: bool = False
    boots: int = 0
    changed_s: float = 0.0
    on_s: float = 0.0  # in all, up to `changed_s`

    def on_for_s(self, at_s: float) -> float:
        return self.on_s + (at_s - self.changed_s if self.on else 0.0)


@dataclass(slots=True, kw_only=True)
class Truth:
    machines: dict[str, Machine] = field(default_factory=dict)
    alive: dict[str, list[Life]] = field(default_factory=dict)  # by instance
    last_ended: dict[str, Life] = field(default_factory=dict)  # by instance
    starts: int = 0

    def machine(self, node: str) -> Machine:
        return self.machines.setdefault(node, Machine(name=node))

    def booted(self, node: str, at_s: float) -> None:
        machine = self.machine(node)
        machine.on, machine.changed_s = True, at_s
        machine.boots += 1

    def powered_off(self, node: str, at_s: float) -> None:
        machine = self.machine(node)
        machine.on_s = machine.on_for_s(at_s)
        machine.on, machine.changed_s = False, at_s

    def began(
        self, node: str, instance: str, epoch: int, run: int, *, incarnation: int, at_s: float
    ) -> Life:
        life = Life(
            node=node,
            instance=instance,
            epoch=epoch,
            run=run,
            boot=self.machine(node).boots,
            incarnation=incarnation,
            began_s=at_s,
        )
        self.alive.setdefault(instance, []).append(life)
        self.starts += 1
        return life

    def ended(self, node: str, instance: str, epoch: int, run: int, at_s: float) -> Life:
        """Raises LookupError: the hardware tells of an end without a beginning."""
        lives = self.alive.get(instance, [])
        for life in lives:
            if (life.node, life.epoch, life.run) == (node, epoch, run):
                lives.remove(life)
                life.ended_s = at_s
                self.last_ended[instance] = life
                return life
        raise LookupError(f"{instance} epoch {epoch} run {run} ended on {node}, and never began")

    def lives(self) -> Iterator[Life]:
        for lives in self.alive.values():
            yield from lives

    def on(self, node: str) -> list[Life]:
        return [life for life in self.lives() if life.node == node]
