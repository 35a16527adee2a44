"""Ask others about silent nodes: the second channel, peers, and the BMC whether there is power.

The tick says which nodes; their answers lie in `Monitor.witnesses` until they are too old, and the
tick never waits for one. Nothing is ordered here: a BMC is only read, and what it says is no proof.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final

from evac_common.errors import EvacError
from evac_monitor.core.fencing import PowerState
from evac_monitor.core.witnesses import Power, Round, Sighting, Witnesses, choose_peers
from evac_monitor.loops.bmcs import Bmcs, identify
from evac_monitor.ports import NodeRow, Peers, SecondChannel, WitnessError
from evac_monitor.process import Monitor, Probing

READINGS_MAX: Final = 16  # BMCs asked at once; each call may be a process of its own
QUESTIONS_MAX: Final = 64  # of the other kinds


class Asked(StrEnum):
    POWER = "power"
    SECOND = "second"
    PEERS = "peers"


class Prober:
    """The questions of this process. Each is a task of its own, bounded in time."""

    def __init__(
        self,
        monitor: Monitor,
        bmcs: Bmcs,
        *,
        second_channel: SecondChannel | None,
        peers: Peers | None,
    ) -> None:
        self._monitor = monitor
        self._bmcs = bmcs
        self._second_channel = second_channel
        self._peers = peers
        # (node id, what) → the incarnation it is about, and the question
        self._tasks: dict[tuple[str, Asked], tuple[int, asyncio.Task[None]]] = {}

    async def step(self) -> None:
        """Begin what is due, longest silent first; end questions that nobody needs any more."""
        probing = self._monitor.probing
        for (node_id, asked), (incarnation, task) in sorted(self._tasks.items()):
            wanted = probing.get(node_id)
            needless = wanted is None or wanted.node.incarnation != incarnation
            if needless or (asked is Asked.POWER and wanted and not wanted.power):
                task.cancel()
        for wanted in probing.values():
            self._begin(wanted)

    async def close(self) -> None:
        tasks = [task for _, task in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, wanted: Probing) -> None:
        settings, node = self._monitor.settings, wanted.node
        known = self._monitor.witnesses_of(node)
        if self._second_channel is not None:
            at_s = known.second.at_s if known.second else None
            self._ask(node, Asked.SECOND, at_s, settings.witness_every_s, self._look)
        if self._peers is not None:
            at_s = known.peers.at_s if known.peers else None
            self._ask(node, Asked.PEERS, at_s, settings.witness_every_s, self._ask_peers)
        if wanted.power:
            at_s = known.power.at_s if known.power else None
            self._ask(node, Asked.POWER, at_s, settings.power_reading_every_s, self._read_power)

    def _ask(
        self,
        node: NodeRow,
        asked: Asked,
        last_s: float | None,
        every_s: float,
        question: Callable[[NodeRow], Coroutine[Any, Any, None]],
    ) -> None:
        key = node.node_id, asked
        due = last_s is None or self._monitor.clock.monotonic() - last_s >= every_s
        if not due or key in self._tasks:
            return
        of_power = sum(1 for _, what in self._tasks if what is Asked.POWER)
        full = (
            of_power >= READINGS_MAX
            if asked is Asked.POWER
            else len(self._tasks) - of_power >= QUESTIONS_MAX
        )
        if full:
            return
        task = asyncio.create_task(question(node), name=f"ask {asked} about {node.name}")
        self._tasks[key] = node.incarnation, task
        task.add_done_callback(lambda done: self._ended(key, node, done))

    def _ended(self, key: tuple[str, Asked], node: NodeRow, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key, (0, None))[1] is task:
            del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._monitor.log.error("question was lost", node=node.name, exc_info=error)

    def _keep(self, node: NodeRow, **answer: Power | Sighting | Round) -> None:
        known = self._monitor.witnesses_of(node)
        found: Witnesses = replace(known, **answer)  # type: ignore[arg-type] # by its own fields
        self._monitor.witnesses[node.node_id] = node.incarnation, found

    # --- the three questions -----------------------------------------------------------------

    async def _look(self, node: NodeRow) -> None:
        assert self._second_channel is not None
        alive: bool | None = None
        try:
            async with asyncio.timeout(self._monitor.settings.witness_limit_s):
                alive = await self._second_channel.alive(node.node_id)
            why = "the second channel shows it alive" if alive else "it does not show itself"
        except TimeoutError:
            why = "no answer in time"
        except WitnessError as error:
            why = str(error)
        self._keep(node, second=Sighting(alive=alive, why=why, at_s=self._now_s()))

    async def _ask_peers(self, node: NodeRow) -> None:
        candidates = {
            name: node_id
            for node_id, name in self._monitor.peers.items()
            if node_id != node.node_id
        }
        lots = [self._monitor.clock.jitter() for _ in candidates]
        chosen = choose_peers(list(candidates), lots)
        told = await asyncio.gather(*(self._ask_peer(candidates[name], node) for name in chosen))
        said = list(zip(chosen, told, strict=True))
        self._keep(
            node,
            peers=Round(
                reached=tuple(name for name, answer in said if answer is True),
                failed=tuple(name for name, answer in said if answer is False),
                mute=tuple(name for name, answer in said if answer is None),
                at_s=self._now_s(),
            ),
        )

    async def _ask_peer(self, peer_id: str, node: NodeRow) -> bool | None:
        assert self._peers is not None
        try:
            async with asyncio.timeout(self._monitor.settings.witness_limit_s):
                return await self._peers.reaches(peer_id, node.node_id)
        except (TimeoutError, WitnessError) as error:
            self._monitor.log.debug("peer did not answer", peer_id=peer_id, why=str(error))
            return None

    async def _read_power(self, node: NodeRow) -> None:
        why = self._bmcs.no_method(node)
        off = False
        if not why:
            try:
                async with asyncio.timeout(self._monitor.settings.power_try_s):
                    off, why = await self._read_twice(node)
            except TimeoutError:
                why = "its BMC did not answer in time"
            except EvacError as error:  # the BMC failed, or its password cannot be decrypted
                why = str(error)
        self._keep(node, power=Power(off=off, why=why, at_s=self._now_s()))
        log = self._monitor.log.warning if off else self._monitor.log.info
        log("power was read", node=node.name, off=off, why=why)

    async def _read_twice(self, node: NodeRow) -> tuple[bool, str]:
        """As for a proof, and with the same check that it is the node's own BMC."""
        target, driver = self._bmcs.reach(node)
        await identify(driver, target, node)
        state = await driver.power_state(target)
        if state is PowerState.OFF:
            await asyncio.sleep(self._monitor.settings.power_read_gap_s)
            state = await driver.power_state(target)
        if state is PowerState.OFF:
            return True, f"its power was read off twice at {target.address}"
        return False, f"its power was read {state} at {target.address}"

    def _now_s(self) -> float:
        return self._monitor.clock.monotonic()
