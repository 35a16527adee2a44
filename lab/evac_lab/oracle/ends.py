"""L1 and L2: judged when a run is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Final

from evac_lab.oracle.rows import Spec
from evac_lab.oracle.scene import Scene
from evac_lab.oracle.truth import Life

AT_ONCE_S: Final = 10.0  # a guest that lives no longer falls at once


@dataclass(slots=True, kw_only=True)
class Cut:
    """A node lost its power while guests executed on it."""

    node: str
    at_s: float
    steady_s: float  # from when on a monitor was steady enough to fence
    targets: int  # other nodes that had power
    lost: list[Life] = field(default_factory=list)
    homeless: set[str] = field(default_factory=set)  # of the lost: for whom there was no room
    back_s: dict[str, float] = field(default_factory=dict)  # instance → when it executed again


class Restarts:
    """How long guests of a node without power did not execute."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._down: dict[str, Cut] = {}  # by instance
        self.cuts: list[Cut] = []

    @property
    def times_s(self) -> list[float]:
        return sorted(back - cut.at_s for cut in self.cuts for back in cut.back_s.values())

    def powered_off(self, node: str, at_s: float) -> None:
        truth, control = self._scene.truth, self._scene.control
        works_s = control.works_since("monitor")
        cut = Cut(
            node=node,
            at_s=at_s,
            steady_s=(works_s if works_s is not None else at_s) + self._scene.timings.hold_off_s,
            targets=sum(each.on for each in truth.machines.values()),
            lost=[
                life
                for life in truth.last_ended.values()
                if (life.node, life.ended_s) == (node, at_s)
                and not truth.alive.get(life.instance)
                and self._scene.wanted(life.instance)
            ],
        )
        cut.homeless = _without_room(self._scene, cut)
        if cut.lost:
            self.cuts.append(cut)
            self._down |= {life.instance: cut for life in cut.lost}

    def began(self, life: Life, at_s: float) -> None:
        if (cut := self._down.pop(life.instance, None)) is not None:
            cut.back_s[life.instance] = at_s

    def finish(self, at_s: float) -> None:
        """L2: of a run with one power cut and no other fault."""
        scene = self._scene
        faults = scene.control.faults.total()
        if len(self.cuts) != 1 or faults > 1 or scene.restores:
            return
        cut = self.cuts[0]
        declared = scene.picture.declared.get(scene.node_id(cut.node) or "")
        flags = scene.picture.flags
        if declared is None or not declared.has_power:
            return
        if flags is not None and (flags.storm or flags.disarmed):
            return
        limit_s = max(cut.at_s, cut.steady_s - scene.timings.fence_after_s)
        limit_s += scene.timings.restart_s(len(cut.lost), cut.targets)
        for life in cut.lost:
            back_s = cut.back_s.get(life.instance)
            spec = scene.picture.specs.get(life.instance)
            homeless = life.instance in cut.homeless
            if spec is None or not spec.wanted or homeless or (back_s or at_s) <= limit_s:
                continue
            when = f"after {back_s - cut.at_s:.1f} s" if back_s else "not at all"
            scene.verdicts.say(
                "L2",
                back_s or at_s,
                f"{scene.name(life.instance)} lost its node {cut.node} and was restarted {when}; "
                f"the limit was {limit_s - cut.at_s:.1f} s",
                node=cut.node,
                instance=life.instance,
            )


def judge_calm(scene: Scene, at_s: float) -> None:
    """L1: after a calm tail everything that should run executes once, where it is recorded."""
    for spec in scene.picture.specs.values():
        if not spec.wanted:
            continue
        lives = scene.truth.alive.get(spec.instance, [])
        why = ""
        if not lives:
            excused = _excused(scene, spec) or _falls_at_once(scene, spec.instance, at_s)
            why = "" if excused else "executes nowhere"
        elif len(lives) > 1:
            why = "executes on " + " and ".join(sorted(life.node for life in lives))
        else:
            why = _misrecorded(scene, lives[0])
        if why:
            node = lives[0].node if lives else None
            scene.verdicts.say(
                "L1",
                at_s,
                f"all is calm, {spec.name} should run and {why}",
                node=node,
                instance=spec.instance,
            )


def _misrecorded(scene: Scene, life: Life) -> str:
    status = scene.picture.statuses.get(life.instance)
    owner = scene.picture.owner(life.instance)
    here = (scene.node_id(life.node), life.epoch)
    if owner is None or (owner.node_id, owner.epoch) != here:
        return f"executes on {life.node} under epoch {life.epoch}; the ledger says otherwise"
    if status is None or (status.phase, status.node_id, status.epoch) != ("running", *here):
        phase = status.phase if status else "missing"
        return f"executes on {life.node}; its status is {phase}, or of another place"
    return ""


def _excused(scene: Scene, spec: Spec) -> bool:
    """L1 promises it where one fencing method works and there is room.

    A recovery ends when every node has spoken or is proven down. One that was given up before the
    database went back is only read, so while its power is on a person must reboot it.
    """
    picture = scene.picture
    if picture.flags is not None and picture.flags.recovering and _waits_for_a_reboot(scene):
        return True
    owner = picture.owner(spec.instance)
    if not _has_room(scene, spec):
        return True
    if owner is None or picture.over(owner):
        return False
    node = picture.nodes.get(owner.node_id)
    if node is None or node.state == "blocked":
        return True
    held = picture.flags is not None and (picture.flags.storm or picture.flags.disarmed)
    return held and node.state == "suspect"


def _falls_at_once(scene: Scene, instance: str, at_s: float) -> bool:
    """Whether its guest ended right after its last start, and the pause after that may last."""
    last = scene.truth.last_ended.get(instance)
    if last is None or last.ended_s is None or not scene.truth.machine(last.node).on:
        return False
    fell = last.ended_s - last.began_s < AT_ONCE_S
    return fell and at_s - last.ended_s < scene.timings.restart_pause_max_s + scene.timings.sweep_s


def _waits_for_a_reboot(scene: Scene) -> bool:
    blocked = [node.node_id for node in scene.picture.nodes.values() if node.state == "blocked"]
    return any(scene.truth.machine(scene.picture.name_of(node_id)).on for node_id in blocked)


def _has_room(scene: Scene, spec: Spec) -> bool:
    """Whether a node that is up has what it needs beside what executes there."""
    rooms = _rooms(scene, but="")
    return any(_fits(spec, rooms.get(node.node_id)) for node in scene.picture.homes(spec))


def _without_room(scene: Scene, cut: Cut) -> set[str]:
    """Those of the lost that do not fit beside one another on the other nodes, largest first."""
    rooms = _rooms(scene, but=cut.node)
    specs = [scene.picture.specs[life.instance] for life in cut.lost]
    homeless = set()
    for spec in sorted(specs, key=lambda each: (-each.memory_mib, each.instance)):
        homes = (rooms.get(node.node_id) for node in scene.picture.homes(spec))
        fitting = [room for room in homes if room is not None and _fits(spec, room)]
        if not fitting:
            homeless.add(spec.instance)
            continue
        largest = max(fitting, key=lambda room: room.memory_mib)
        largest.memory_mib -= spec.memory_mib
        largest.vcpus -= spec.vcpus
    return homeless


@dataclass(slots=True, kw_only=True)
class Room:
    memory_mib: int
    vcpus: int


def _rooms(scene: Scene, *, but: str) -> dict[str, Room]:
    """What is left on each node that is up, other than `but`, beside what executes there."""
    picture = scene.picture
    rooms = {}
    for node in picture.declared.values():
        recorded = picture.nodes.get(node.node_id)
        if node.name == but or recorded is None or recorded.state != "up":
            continue
        lives = scene.truth.on(node.name)
        here = [picture.specs[each.instance] for each in lives if each.instance in picture.specs]
        rooms[node.node_id] = Room(
            memory_mib=node.memory_mib - sum(spec.memory_mib for spec in here),
            vcpus=node.vcpus - sum(spec.vcpus for spec in here),
        )
    return rooms


def _fits(spec: Spec, room: Room | None) -> bool:
    return room is not None and room.memory_mib >= spec.memory_mib and room.vcpus >= spec.vcpus


def percentile(sorted_values: list[float], share: float) -> float | None:
    """The value that this share does not exceed; None of nothing."""
    if not sorted_values:
        return None
    return sorted_values[max(0, ceil(share * len(sorted_values)) - 1)]
