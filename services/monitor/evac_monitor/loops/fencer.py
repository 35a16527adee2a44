"""Carry fencing out: for each node in fencing or blocked, the next try, or the alarm.

Level-triggered: every step re-reads the rows, so a try that a dead monitor left behind is found
like any other. A try runs as a task of its own; its only way to a proof is `Records.prove_off`,
which checks again that the node still is the incarnation that was to be cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self

from evac_common.errors import EvacError, Retryable
from evac_common.model.states import NodeState
from evac_monitor.core import fencing
from evac_monitor.core.fencing import AttemptState, PowerState
from evac_monitor.loops.bmcs import Bmcs, identify
from evac_monitor.ports import Doomed, NodeRow, PowerDriver, PowerError, PowerTarget
from evac_monitor.process import Monitor

TRIES_MAX = 16  # at once; the rest waits for the next step


@dataclass(frozen=True, slots=True, kw_only=True)
class _For:
    """What a try is for; once that changed it must not go on."""

    incarnation: int
    only_read: bool

    @classmethod
    def of(cls, doomed: Doomed) -> Self:
        return cls(incarnation=doomed.node.incarnation, only_read=doomed.only_read)


class Fencer:
    """The tries of this process. `run` must be running for tries to be carried out."""

    def __init__(self, monitor: Monitor, bmcs: Bmcs) -> None:
        self._monitor = monitor
        self._bmcs = bmcs
        # node id → what the try is for, and the try
        self._tries: dict[str, tuple[_For, asyncio.Task[None]]] = {}

    async def step(self) -> None:
        """Look at every doomed node once; give up tries at nodes that are doomed no more."""
        if not self._monitor.prepared or not (self._monitor.doomed or self._tries):
            return
        found = await self._monitor.records.doomed()
        self._spare({each.node.node_id: _For.of(each) for each in found})
        for doomed in found:
            await self._advance(doomed)

    def _spare(self, doomed: Mapping[str, _For]) -> None:
        """End tries whose node settled the matter itself, by a reboot, or an operator did.

        A try that went on could switch off a node that has just come back. Its row was closed by
        whoever moved the node. One that may not switch anything off any more is begun again.
        """
        for node_id, (meant, task) in sorted(self._tries.items()):
            if doomed.get(node_id) != meant and task.cancel():
                now = doomed.get(node_id)
                why = "not doomed any more"
                if now is not None and now.incarnation == meant.incarnation:
                    why = "its power is only read now" if now.only_read else "it may be ordered now"
                self._monitor.log.info("try given up", node_id=node_id, why=why)

    async def close(self) -> None:
        """Stop all tries; their rows stay, and are resumed by whoever runs next."""
        tries = [task for _, task in self._tries.values()]
        for task in tries:
            task.cancel()
        await asyncio.gather(*tries, return_exceptions=True)

    async def _advance(self, doomed: Doomed) -> None:
        monitor, node = self._monitor, doomed.node
        case = fencing.Case(
            state=node.state,
            no_method=self._bmcs.no_method(node),
            attempts=doomed.attempts,
            running_here=node.node_id in self._tries,
        )
        step = fencing.next_step(case, monitor.settings.fencing)
        match step:
            case fencing.Block(why=why):
                if await monitor.records.block(node, why):
                    monitor.log.error("node blocked", node=node.name, why=why)
            case fencing.Try() | fencing.Resume() if len(self._tries) < TRIES_MAX:
                attempt_id = await monitor.records.begin_try(
                    node, step, doomed.attempts, only_read=doomed.only_read
                )
                if attempt_id is not None:
                    self._start(doomed, attempt_id, step.number)
            case _:
                pass
        if node.state is NodeState.BLOCKED:
            every_s = monitor.settings.alarm_blocked_s
            if await monitor.records.alarm_blocked(node, every_s=every_s):
                monitor.log.error("node still blocked", node=node.name, why=node.reason)

    def _start(self, doomed: Doomed, attempt_id: str, number: int) -> None:
        node = doomed.node
        task = asyncio.create_task(
            self._try(node, attempt_id, number, only_read=doomed.only_read),
            name=f"cut off {node.name}, try {number}",
        )
        self._tries[node.node_id] = _For.of(doomed), task
        task.add_done_callback(lambda done: self._ended(node, done))

    def _ended(self, node: NodeRow, task: asyncio.Task[None]) -> None:
        if self._tries.get(node.node_id, (None, None))[1] is task:
            del self._tries[node.node_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            # The row stays `running`; after resume_after_s somebody tries again.
            expected = isinstance(error, Retryable)
            self._monitor.log.error(
                "try was lost", node=node.name, exc_info=None if expected else error, why=str(error)
            )
        self._monitor.fence_wake.set()

    async def _try(self, node: NodeRow, attempt_id: str, number: int, *, only_read: bool) -> None:
        monitor = self._monitor
        monitor.log.info("try begins", node=node.name, number=number)
        try:
            target, driver = self._bmcs.reach(node)
            outcome = await Try(monitor, node, driver, target, only_read=only_read).run()
        except EvacError as error:  # the password cannot be decrypted, the row is malformed
            outcome = fencing.Failed(why=str(error))
        match outcome:
            case fencing.Failed(why=why):
                monitor.log.warning("try failed", node=node.name, number=number, why=why)
                await monitor.records.end_try(attempt_id, AttemptState.FAILED, why)
            case fencing.Proven(readings=readings):
                evidence = {
                    "method": str(target.kind),
                    "address": f"{target.address}:{target.port}",
                    "attempt": number,
                    "readings": [
                        {"state": str(reading.state), "at": self._wall(reading.answered_s)}
                        for reading in readings
                    ],
                }
                if await monitor.records.prove_off(node, attempt_id, evidence):
                    monitor.log.warning("node fenced", node=node.name, incarnation=node.incarnation)
                else:
                    await monitor.records.end_try(
                        attempt_id, AttemptState.ABANDONED, "the node's state changed meanwhile"
                    )

    def _wall(self, at_s: float) -> str:
        clock = self._monitor.clock
        moment: datetime = datetime.fromtimestamp(
            clock.now().timestamp() - (clock.monotonic() - at_s), UTC
        )
        return moment.isoformat(timespec="milliseconds")


class Try:
    """One try against one BMC, within its time limit."""

    def __init__(
        self,
        monitor: Monitor,
        node: NodeRow,
        driver: PowerDriver,
        target: PowerTarget,
        *,
        only_read: bool,
    ) -> None:
        self._clock = monitor.clock
        self._policy = monitor.settings.fencing
        self._node = node
        self._driver = driver
        self._target = target
        self._progress = fencing.Progress(began_s=self._clock.monotonic(), only_read=only_read)

    async def run(self) -> fencing.Proven | fencing.Failed:
        while True:
            move = fencing.next_move(self._progress, self._clock.monotonic(), self._policy)
            match move:
                case fencing.Proven() | fencing.Failed():
                    return move
                case fencing.Read(after_s=after_s):
                    await asyncio.sleep(max(0.0, after_s - self._clock.monotonic()))
                    reading = await self._read()
                    self._progress = replace(
                        self._progress, readings=(*self._progress.readings, reading)
                    )
                case fencing.Order():
                    await self._order()

    def _left_s(self) -> float:
        return max(0.0, self._progress.began_s + self._policy.try_s - self._clock.monotonic())

    async def _read(self) -> fencing.Reading:
        asked_s = self._clock.monotonic()
        state, error, hopeless, cut_short = PowerState.UNKNOWN, "", False, False
        try:
            async with asyncio.timeout(self._left_s()):
                if not self._progress.identified:
                    await identify(self._driver, self._target, self._node)
                    self._progress = replace(self._progress, identified=True)
                state = await self._driver.power_state(self._target)
        except TimeoutError:
            error, cut_short = f"the BMC did not answer within {self._policy.try_s:.0f} s", True
        except PowerError as failure:
            error, hopeless = str(failure), failure.hopeless
        return fencing.Reading(
            asked_s=asked_s,
            answered_s=self._clock.monotonic(),
            state=state,
            error=error,
            hopeless=hopeless,
            cut_short=cut_short,
        )

    async def _order(self) -> None:
        accepted, error = False, ""
        try:
            async with asyncio.timeout(self._left_s()):
                await self._driver.power_off(self._target)
            accepted = True
        except TimeoutError:
            error = "no answer in time"
        except PowerError as failure:
            error = str(failure)
        self._progress = replace(
            self._progress,
            ordered_s=self._clock.monotonic(),
            order_accepted=accepted,
            order_error=error,
        )
