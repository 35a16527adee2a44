"""Every enrolled node has a command queue, declared by the controllers alone."""

from __future__ import annotations

from evac_common.bus import topology
from evac_common.bus.port import Bus
from evac_scheduler.ports import Database


class CommandQueues:
    """Declares the queue of each node once per connection: the broker may have lost it since."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus
        self._since_s: float | None = None
        self._declared: frozenset[str] = frozenset()

    async def step(self) -> None:
        health = self._bus.health()
        if not health.connected:
            return
        if health.connected_since_s != self._since_s:
            self._since_s, self._declared = health.connected_since_s, frozenset()
        async with self._database.read() as records:
            nodes = await records.enrolled()
        new = [node for node in nodes if node not in self._declared]
        if new:
            await self._bus.declare([topology.command_queue(node) for node in new])
        self._declared = frozenset(nodes)
