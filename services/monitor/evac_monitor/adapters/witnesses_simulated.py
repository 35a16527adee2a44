"""A second channel and peers that exist only in memory, for the simulator and the tests.

What is true in the simulated world is asked of a function that the simulator gives in; None means
that the one who is asked does not answer, and that is found out only when the time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from evac_monitor.ports import WitnessError


class SimulatedSecondChannel:
    """`ports.SecondChannel`. `alive`: node id → whether its host shows itself, or None."""

    def __init__(
        self,
        alive: Callable[[str], bool | None],
        *,
        answer_s: float = 0.05,
        call_limit_s: float = 3.0,
    ) -> None:
        self._alive = alive
        self._answer_s = answer_s
        self._call_limit_s = call_limit_s

    async def alive(self, node_id: str) -> bool:
        await asyncio.sleep(self._answer_s)
        seen = self._alive(node_id)
        if seen is None:
            await asyncio.sleep(max(0.0, self._call_limit_s - self._answer_s))
            raise WitnessError("the second channel did not answer")
        return seen


class SimulatedPeers:
    """`ports.Peers`. `reaches`: (peer's node id, node id) → whether it reaches it, or None."""

    def __init__(
        self,
        reaches: Callable[[str, str], bool | None],
        *,
        answer_s: float = 0.05,
        call_limit_s: float = 3.0,
    ) -> None:
        self._reaches = reaches
        self._answer_s = answer_s
        self._call_limit_s = call_limit_s

    async def reaches(self, peer_id: str, node_id: str) -> bool:
        await asyncio.sleep(self._answer_s)
        reached = self._reaches(peer_id, node_id)
        if reached is None:
            await asyncio.sleep(max(0.0, self._call_limit_s - self._answer_s))
            raise WitnessError("the peer did not answer")
        return reached
