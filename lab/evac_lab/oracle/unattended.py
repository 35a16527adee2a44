"""L6: whoever should run and does not is somebody's open work, at every sweep."""

from __future__ import annotations

from evac_lab.oracle.rows import Spec
from evac_lab.oracle.scene import Scene


class Unattended:
    """Counts only while a scheduler works and the database answers."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._since: dict[tuple[str, str], float] = {}  # (instance, why) → first seen so

    def sweep(self, at_s: float) -> None:
        scene, control = self._scene, self._scene.control
        works_s = control.works_since("scheduler")
        flags = scene.picture.flags
        well = works_s is not None and control.database_answers(at_s)
        if not well or flags is None or flags.recovering:
            self._since.clear()
            return
        # How long the rows may lag behind one another, and behind what really happens.
        rows_s = 2 * scene.timings.sweep_s + scene.timings.resume_s
        truth_s = rows_s + 3 * scene.timings.inventory_s + scene.timings.hold_off_s
        found: dict[tuple[str, str], float] = {}
        for spec in scene.picture.specs.values():
            if not spec.wanted:
                continue
            by_rows, by_truth = self._by_rows(spec), self._by_truth(spec, at_s, truth_s)
            for why, patience_s in ((by_rows, rows_s), (by_truth, truth_s)):
                if not why:
                    continue
                since_s = self._since.get((spec.instance, why), at_s)
                found[spec.instance, why] = since_s
                began_s = max(since_s, works_s or at_s, control.undisturbed_since("DSW"))
                if at_s - began_s > patience_s:
                    scene.verdicts.say(
                        "L6",
                        at_s,
                        f"{spec.name} should run and is nobody's work for "
                        f"{at_s - began_s:.0f} s: {why}",
                        instance=spec.instance,
                    )
        self._since = found

    def _by_rows(self, spec: Spec) -> str:
        picture = self._scene.picture
        status = picture.statuses.get(spec.instance)
        if status is None:
            return "it has no status"
        owner = picture.owner(spec.instance)
        if owner is None:
            return "" if status.phase == "pending" else f"it is {status.phase} and nobody owns it"
        if picture.over(owner) and status.phase != "pending":
            return f"it is {status.phase} and its last epoch, {owner.epoch}, is over"
        return ""

    def _by_truth(self, spec: Spec, at_s: float, patience_s: float) -> str:
        """Recorded as running on a node that is up, and it does not execute."""
        scene = self._scene
        status = scene.picture.statuses.get(spec.instance)
        if status is None or status.phase != "running" or scene.truth.alive.get(spec.instance):
            return ""
        node = scene.picture.nodes.get(status.node_id or "")
        quiet = at_s - scene.control.fault_s > patience_s and scene.control.broker_answers(at_s)
        if node is None or node.state != "up" or not quiet:
            return ""
        machine = scene.picture.name_of(node.node_id)
        return f"it is recorded as running on {machine}, which is up, and executes nowhere"
