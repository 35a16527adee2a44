"""S8, L3 and L4: who is cut off, how many, why, and that it comes to an end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from evac_lab.oracle.rows import Changes, NodeRow
from evac_lab.oracle.scene import Scene

MONITOR: Final = "evac-monitor"  # in audit rows: nobody's wish
_AWAY: Final = frozenset({"suspect", "fencing", "blocked", "fenced"})
_SLACK_S: Final = 5.0  # a window that ends just now, by a clock that may be a little off


@dataclass(slots=True, kw_only=True)
class Fencing:
    node_id: str
    began_s: float
    automatic: bool
    counts: bool  # towards the blast radius: it had power, or nobody had read that it had none
    forgiven: bool  # an operator has released a storm since the node fell silent
    proven_s: float | None = None  # by its power
    proof: str = ""  # its id
    open: bool = True


class Fencings:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._last: dict[str, Fencing] = {}  # by node
        self._released_at: str | None = None
        self._given_up: set[str] = set()  # nodes that were away when an operator released a storm

    def committed(self, changes: Changes) -> None:
        if changes.wholesale:
            self._restart(changes)
            return
        for proof in changes.proofs:
            if proof.kind == "power" and (fencing := self._last.get(proof.node_id)):
                fencing.proven_s, fencing.proof = changes.at_s, proof.id
        flags = self._scene.picture.flags
        if flags is not None and flags.storm_released_at != self._released_at:
            self._released_at = flags.storm_released_at
            nodes = self._scene.picture.nodes.values()
            self._given_up = {node.node_id for node in nodes if node.state in _AWAY}
            for fencing in self._last.values():
                fencing.forgiven = True
        for before, node in changes.nodes:
            if node is not None and (before is None or before.state != node.state):
                self._moved(node, changes)

    def _restart(self, changes: Changes) -> None:
        """The database went back in time: a decision that it forgot was never made."""
        picture = self._scene.picture
        self._last = {
            node_id: fencing
            for node_id, fencing in self._last.items()
            if self._still_down(fencing) or fencing.proof in picture.proofs
        }
        for fencing in self._last.values():
            node = picture.nodes.get(fencing.node_id)
            fencing.open = node is not None and node.state == "fencing"
        flags = picture.flags
        self._released_at = flags.storm_released_at if flags else None

    def _moved(self, node: NodeRow, changes: Changes) -> None:
        if node.state not in _AWAY:
            self._given_up.discard(node.node_id)
        if node.state == "fencing":
            self._began(node, changes)
            return
        if (fencing := self._last.get(node.node_id)) is not None:
            fencing.open = False
        alarmed = any(
            event.alarm and (event.name, event.subject) == ("node.blocked", node.node_id)
            for event in changes.events
        )
        if node.state == "blocked" and not alarmed:
            machine = self._scene.picture.name_of(node.node_id)
            self._scene.verdicts.say(
                "L4", changes.at_s, f"{machine} is blocked, and nobody was alarmed", node=machine
            )

    def _began(self, node: NodeRow, changes: Changes) -> None:
        scene, machine = self._scene, self._scene.picture.name_of(node.node_id)
        automatic = not any(
            each.node_id == node.node_id and each.new == "fencing" and each.actor != MONITOR
            for each in changes.transitions
        )
        off = node.found_off and not scene.truth.machine(machine).on
        self._last[node.node_id] = Fencing(
            node_id=node.node_id,
            began_s=changes.at_s,
            automatic=automatic,
            counts=not off,
            forgiven=node.node_id in self._given_up,
        )
        if not automatic:
            return
        self._too_many(machine, changes.at_s)
        if not scene.control.node_touched:
            faults = ", ".join(
                sorted({f"{letter} {kind}" for letter, kind in scene.control.faults})
            )
            scene.verdicts.say(
                "L3",
                changes.at_s,
                f"a fencing of {machine} began, and no node was ever touched; "
                f"faults so far: {faults or 'none'}",
                node=machine,
            )
        if scene.picture.flags is not None and scene.picture.flags.recovering:
            scene.verdicts.say(
                "S13",
                changes.at_s,
                f"a fencing of {machine} began while the database is recovering what it forgot",
                node=machine,
            )

    def _too_many(self, machine: str, at_s: float) -> None:
        """S8. There are no zones yet: the whole cluster is one.

        When a fencing was is written by wall clocks, and a monitor that has started since one was
        set cannot know by how much: not promised, and not judged, while it matters.
        """
        scene = self._scene
        since_s = at_s - scene.timings.blast_window_s + _SLACK_S
        if scene.control.unseen_jump_s > since_s - 2 * _SLACK_S:
            return
        counted = [
            each
            for each in self._last.values()
            if each.automatic
            and each.counts
            and not each.forgiven
            and (self._still_down(each) or (each.proven_s or float("-inf")) > since_s)
        ]
        registered = sum(node.state != "new" for node in scene.picture.nodes.values())
        limit = scene.timings.blast_limit(registered)
        if len(counted) > limit:
            names = ", ".join(sorted(scene.picture.name_of(each.node_id) for each in counted))
            scene.verdicts.say(
                "S8",
                at_s,
                f"{len(counted)} of {registered} nodes are cut off without an operator's word "
                f"({names}), at most {limit} may be",
                node=machine,
            )

    def _still_down(self, fencing: Fencing) -> bool:
        node = self._scene.picture.nodes.get(fencing.node_id)
        return node is not None and node.state in ("fencing", "blocked")

    def sweep(self, at_s: float) -> None:
        """L4: time counts only while a monitor works at it and the database answers."""
        control = self._scene.control
        works_s = control.works_since("monitor", needs=("database",))
        if works_s is None or not control.database_answers(at_s):
            return
        undisturbed_s = max(works_s, control.undisturbed_since("MDW"))
        for fencing in self._last.values():
            lasted_s = at_s - max(fencing.began_s, undisturbed_s)
            if fencing.open and lasted_s > self._scene.timings.fencing_s():
                machine = self._scene.picture.name_of(fencing.node_id)
                self._scene.verdicts.say(
                    "L4",
                    at_s,
                    f"the fencing of {machine} has lasted {lasted_s:.0f} s with a monitor at work, "
                    "and is neither proven nor blocked",
                    node=machine,
                )
