"""S12: evac never ends the only living copy of an instance that should run, unless asked to.

Not in reliability.md, and follows from both of its sentences: a `destroy`, or a session that calls
an epoch superseded, is meant for a copy that has a successor. If no other copy lives at that
moment, somebody who did not know enough has ended a guest that its user wanted: at best it is
restarted, and its users were disturbed by their own protection.
"""

from __future__ import annotations

from evac_lab.oracle.scene import Scene
from evac_lab.oracle.truth import Life


class Destroys:
    """An end is judged a moment later: a power cut and a guest's own end are told beside it."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._ended: list[Life] = []

    def ended(self, life: Life) -> None:
        scene = self._scene
        node_id = scene.node_id(life.node) or ""
        epoch, _ = scene.talk.ends.get((node_id, life.instance), (0, 0.0))
        asked_to_stop = scene.talk.stops.get((node_id, life.instance), 0) >= life.epoch
        only = not scene.truth.alive.get(life.instance)
        if epoch >= life.epoch and only and not asked_to_stop and scene.wanted(life.instance):
            self._ended.append(life)

    def judge(self, at_s: float) -> None:
        """Judge what ended before this moment."""
        if not self._ended:
            return
        due = [life for life in self._ended if life.ended_s is not None and life.ended_s < at_s]
        self._ended = [life for life in self._ended if life not in due]
        for life in due:
            machine = self._scene.truth.machine(life.node)
            own_end = life.ended_s == self._scene.control.disturbed.get("V")
            if not machine.on or machine.boots != life.boot or own_end:
                continue
            self._scene.verdicts.say(
                "S12",
                life.ended_s or at_s,
                f"{life.node} was told to end epoch {life.epoch} of "
                f"{self._scene.name(life.instance)}, which should run: it was the only living copy",
                node=life.node,
                instance=life.instance,
            )
