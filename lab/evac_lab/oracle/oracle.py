"""The oracle: a witness that judges. Each call looks only at what that call can have changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evac_lab.oracle.database import Database
from evac_lab.oracle.death import Death
from evac_lab.oracle.destroys import Destroys
from evac_lab.oracle.ends import Restarts, judge_calm, percentile
from evac_lab.oracle.fencings import Fencings
from evac_lab.oracle.ledger import Ledger
from evac_lab.oracle.ports import Violation
from evac_lab.oracle.reports import Reports
from evac_lab.oracle.resuming import Resuming
from evac_lab.oracle.scene import Scene
from evac_lab.oracle.sessions import Sessions
from evac_lab.oracle.timings import Timings
from evac_lab.oracle.unattended import Unattended

SWEEP_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What a run consisted of. `faults`: (component, kind) → how many."""

    faults: Mapping[tuple[str, str], int]
    starts: int
    evacuations_done: int
    power_cuts: int  # of nodes with guests
    restart_times_s: Sequence[float]  # from a power cut to the guest's next execution, sorted
    node_hours: float  # with power
    lasted_s: float

    @property
    def restart_p95_s(self) -> float | None:
        return percentile(list(self.restart_times_s), 0.95)


class Oracle:
    """`Witness` of one run. `database`: the services' SQLite file, which need not be there yet."""

    def __init__(self, database: Path, *, timings: Timings | None = None) -> None:
        self._scene = scene = Scene(database=Database(database), timings=timings or Timings())
        self._ledger = Ledger(scene)
        self._death = Death(scene)
        self._sessions = Sessions(scene)
        self._reports = Reports(scene)
        self._fencings = Fencings(scene)
        self._destroys = Destroys(scene)
        self._resuming = Resuming(scene)
        self._unattended = Unattended(scene)
        self._restarts = Restarts(scene)
        self._next_sweep_s = SWEEP_S
        self._over = False  # the run ended: what is told while the world is taken down is not of it
        self._evacuations_before = 0  # done before the database went back in time

    @property
    def violations(self) -> Sequence[Violation]:
        return self._scene.verdicts.found

    # -- what the hardware tells ---------------------------------------------------------------

    def began(self, node: str, instance_id: str, epoch: int, run: int, at_s: float) -> None:
        if self._over:
            return
        self._pass(at_s)
        scene = self._scene
        told = scene.talk.lives.get(node, 0)
        life = scene.truth.began(node, instance_id, epoch, run, incarnation=told, at_s=at_s)
        for check in (self._ledger, self._death, self._sessions, self._restarts):
            check.began(life, at_s)

    def ended(self, node: str, instance_id: str, epoch: int, run: int, at_s: float) -> None:
        if self._over:
            return
        self._pass(at_s)
        self._destroys.ended(self._scene.truth.ended(node, instance_id, epoch, run, at_s))

    def booted(self, node: str, at_s: float) -> None:
        if self._over:
            return
        self._pass(at_s)
        self._scene.truth.booted(node, at_s)

    def powered_off(self, node: str, at_s: float) -> None:
        if self._over:
            return
        self._pass(at_s)
        self._scene.control.node_touched = True
        self._scene.truth.powered_off(node, at_s)
        self._restarts.powered_off(node, at_s)

    def published(
        self, user: str, endpoint: str, exchange: str, routing_key: str, body: bytes, at_s: float
    ) -> None:
        if self._over:
            return
        self._pass(at_s)
        self._scene.control.publish_s = at_s
        told = self._scene.talk.hear(user, endpoint, exchange, routing_key, body, at_s)
        if told is not None:
            self._sessions.told(told, at_s)

    def committed(self, at_s: float) -> None:
        if self._over:
            return
        self._scene.control.commit_s = at_s
        self._look(at_s)
        self._pass(at_s)

    def _look(self, at_s: float) -> None:
        changes = self._scene.database.look(self._scene.picture, at_s)
        if changes is not None:
            for check in (self._ledger, self._death, self._reports, self._fencings):
                check.committed(changes)

    def restored(self, at_s: float) -> None:
        if self._over:
            return
        scene = self._scene
        if scene.picture.flags is not None:
            self._evacuations_before += scene.database.evacuations_done()
        scene.restores += 1
        scene.database.restored()
        self._resuming.restored()
        self._look(at_s)
        if scene.picture.flags is not None:
            self._evacuations_before -= scene.database.evacuations_done()

    def fault(self, component: str, kind: str, at_s: float) -> None:
        if self._over:
            return
        self._pass(at_s)
        self._scene.control.fault(component, kind, at_s)
        self._sessions.fault(component, kind)

    def well(self, component: str, at_s: float) -> None:
        if self._over:
            return
        self._pass(at_s)
        self._scene.control.well(component, at_s)

    def reach(self, endpoint: str, peer: str, whole: bool, at_s: float) -> None:
        if self._over:
            return
        self._pass(at_s)
        self._scene.control.reach(endpoint, peer, whole, at_s)

    def process(self, name: str, what: str, at_s: float) -> None:
        if self._over:
            return
        self._pass(at_s)
        self._scene.control.process(name, what, at_s)
        self._resuming.process(name, what, at_s)

    # -- time, and the end ---------------------------------------------------------------------

    def _pass(self, at_s: float) -> None:
        self._destroys.judge(at_s)
        if at_s >= self._next_sweep_s:
            self._next_sweep_s = at_s + SWEEP_S
            self._sweep(at_s)

    def _sweep(self, at_s: float) -> None:
        if self._scene.picture.flags is None:
            return
        for check in (self._ledger, self._fencings, self._resuming, self._unattended):
            check.sweep(at_s)

    def finish(self, at_s: float, *, calm: bool) -> Statistics:
        """The end of the run. `calm`: every fault was taken back long enough before (L1)."""
        scene = self._scene
        self._destroys.judge(float("inf"))
        self.committed(at_s)
        if scene.picture.flags is not None:
            scene.database.declare(scene.picture)
            self._sweep(at_s)
            self._restarts.finish(at_s)
            if calm:
                judge_calm(scene, at_s)
        statistics = self._statistics(at_s)
        self.close()
        return statistics

    def close(self) -> None:
        """Let go of the database file, and judge nothing that is told after this."""
        self._over = True
        self._scene.database.close()

    def _statistics(self, at_s: float) -> Statistics:
        scene = self._scene
        done = scene.database.evacuations_done() if scene.picture.flags is not None else 0
        return Statistics(
            faults=dict(scene.control.faults),
            starts=scene.truth.starts,
            evacuations_done=self._evacuations_before + done,
            power_cuts=len(self._restarts.cuts),
            restart_times_s=self._restarts.times_s,
            node_hours=sum(each.on_for_s(at_s) for each in scene.truth.machines.values()) / 3600,
            lasted_s=at_s,
        )
