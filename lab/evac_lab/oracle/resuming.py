"""L5: a controller that starts again takes up every open item within seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from evac_lab.oracle.control import service_of
from evac_lab.oracle.scene import Scene

_STARTS: Final = ("started", "resumed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was open when the controller started."""

    process: str
    at_s: float
    items: dict[tuple[str, str], tuple[Any, ...]]  # (evacuation, instance) → its row
    planned_at: str | None
    fencing: dict[str, list[Any]]  # node → its tries


class Pauses:
    """What waits until a moment of the scheduler's clock, by ours: since when it waits for that."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}

    def see(self, waiting: Iterable[tuple[str, str]], at_s: float) -> None:
        """Each: what waits, and the moment until which it says to wait."""
        self._since = {each: self._since.get(each, at_s) for each in waiting}

    def lasts(self, what: str, until: str | None, at_s: float, longest_s: float) -> bool:
        """No pause may be longer than `longest_s`, whatever moment is written."""
        return until is not None and at_s - self._since.get((what, until), at_s) < longest_s


class Resuming:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._open: list[Snapshot] = []
        self._pauses = Pauses()

    def process(self, name: str, what: str, at_s: float) -> None:
        service = service_of(name)
        if what not in _STARTS or service not in ("scheduler", "monitor"):
            return
        if self._scene.picture.flags is None:  # nothing was read yet: the cluster comes up
            return
        if service == "scheduler":
            snapshot = Snapshot(
                process=name,
                at_s=at_s,
                items=self._items(),
                planned_at=self._scene.database.planned_at(),
                fencing={},
            )
        else:
            snapshot = Snapshot(
                process=name, at_s=at_s, items={}, planned_at=None, fencing=self._fencing()
            )
        if snapshot.items or snapshot.fencing:
            self._open.append(snapshot)

    def restored(self) -> None:
        self._open.clear()

    def _waiting(self) -> Iterator[tuple[str, str]]:
        for status in self._scene.picture.statuses.values():
            if status.next_at is not None:
                yield status.instance, status.next_at
        for snapshot in self._open:
            for instance, _, _, _, next_at, _ in snapshot.items.values():
                if next_at is not None:
                    yield instance, next_at

    def _items(self) -> dict[tuple[str, str], tuple[Any, ...]]:
        return {(row[5], row[0]): tuple(row) for row in self._scene.database.open_items()}

    def _fencing(self) -> dict[str, list[Any]]:
        picture = self._scene.picture
        tries = self._scene.database.attempts()
        return {
            node.node_id: sorted(each for each in tries if each[0] == node.node_id)
            for node in picture.nodes.values()
            if node.state == "fencing" and picture.declared[node.node_id].has_power
        }

    def sweep(self, at_s: float) -> None:
        timings = self._scene.timings
        self._pauses.see(self._waiting(), at_s)
        kept = []
        for snapshot in self._open:
            patience_s = timings.resume_s + timings.sweep_s
            if snapshot.fencing:
                patience_s += timings.resume_after_s
            if self._disturbed(snapshot):
                continue
            if at_s < snapshot.at_s + patience_s:
                kept.append(snapshot)
            elif self._scene.control.database_answers(at_s):
                self._judge(snapshot, at_s)
        self._open = kept

    def _disturbed(self, snapshot: Snapshot) -> bool:
        control = self._scene.control
        flags = self._scene.picture.flags
        return (
            control.well_since(snapshot.process) != snapshot.at_s
            or control.undisturbed_since("DBW") > snapshot.at_s
            or (flags is not None and flags.recovering)
        )

    def _judge(self, snapshot: Snapshot, at_s: float) -> None:
        now = self._items() if snapshot.items else {}
        planned = self._scene.database.planned_at() != snapshot.planned_at
        commanded = self._scene.database.commands_sent() if snapshot.items else {}
        starting = Counter(
            status.node_id
            for status in self._scene.picture.statuses.values()
            if status.phase == "starting"
        )
        for key, row in snapshot.items.items():
            if now.get(key) != row:
                continue
            why = self._neglected(
                row, at_s, planned=planned, commanded=commanded, starting=starting
            )
            if why:
                instance = row[0]
                self._say(
                    snapshot, at_s, f"the item of {self._scene.name(instance)} {why}", instance
                )
        if snapshot.fencing:
            tries = self._fencing()
            for node_id, before in snapshot.fencing.items():
                if tries.get(node_id) == before:
                    node = self._scene.picture.name_of(node_id)
                    self._say(snapshot, at_s, f"nobody goes on with the fencing of {node}", None)

    def _neglected(
        self,
        row: tuple[Any, ...],
        at_s: float,
        *,
        planned: bool,
        commanded: dict[str, int],
        starting: Counter[str | None],
    ) -> str:
        """Why an item that did not change should have; empty: it may wait."""
        instance, state, target, _, next_at, _ = row
        timings = self._scene.timings
        longest_s = timings.backoff_max_s + timings.resume_s + timings.sweep_s
        node = self._scene.picture.nodes.get(target or "")
        if not self._scene.wanted(instance):
            return ""
        pauses = self._pauses.lasts(instance, next_at, at_s, longest_s)
        if state == "pending" and not pauses and not planned:
            return "waits for a place, and nothing was planned"
        if node is None or node.state != "up":
            return ""
        full = (
            starting[target] >= timings.starts_per_node or starting.total() >= timings.starts_total
        )
        if state == "reserved" and not full:
            return "has a place, and nothing was started"
        status = self._scene.picture.statuses.get(instance)
        until = status.next_at if status is not None else None  # its last start failed
        pauses = self._pauses.lasts(instance, until, at_s, longest_s)
        # One that ended on its target waits for a wave again.
        waits = pauses or (full and status is not None and status.phase == "exited")
        if state == "starting" and instance not in commanded and not waits:
            return "is starting, and nothing is commanded"
        return ""

    def _say(self, snapshot: Snapshot, at_s: float, what: str, instance: str | None) -> None:
        waited_s = at_s - snapshot.at_s
        self._scene.verdicts.say(
            "L5",
            at_s,
            f"{waited_s:.0f} s after {snapshot.process} started, {what}",
            node=None,
            instance=instance,
        )
