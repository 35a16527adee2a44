"""The machine shuts down in good order: guests are stopped and released, and that is reported.

Not the end of the daemon: that touches no guest and says nothing. Here every guest would be killed
with the machine, and its instance would wait for a proof of that; `stopped(epoch)` is one at once.
What is not done when the time is over dies with the machine, and is proven dead as after a crash.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Final

from evac_common.errors import EvacError
from evac_common.messages.reports import Stopped, StopReason
from evac_compute.core.record import Released
from evac_compute.lanes import Lanes
from evac_compute.ports import Hypervisor, HypervisorUnreachable
from evac_compute.state import Node

GRACE_S: Final = 30.0  # for a guest to power off by itself
LIMIT_S: Final = 60.0  # for all of it: below the 90 s after which systemd kills
PAUSE_S: Final = 0.5  # before the hypervisor, or whether all is sent, is asked again


class Leaving:
    """`run` ends when nothing executes here and everything is said, or after `limit_s`."""

    def __init__(self, node: Node, hypervisor: Hypervisor, lanes: Lanes) -> None:
        self._node, self._hypervisor, self._lanes = node, hypervisor, lanes

    async def run(self, *, limit_s: float = LIMIT_S) -> bool:
        """False: the time was over first. No command may be taken any more when this begins."""
        self._node.log.warning("the machine shuts down: stopping its guests")
        try:
            async with asyncio.timeout(limit_s):
                while not await self._everything_is_stopped():  # noqa: ASYNC110 - it looks itself
                    await asyncio.sleep(PAUSE_S)
                while self._node.recorded.unsent:  # noqa: ASYNC110 - the journal has no event
                    await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            self._node.log.error("the machine shuts down, and not all of its guests are released")
            return False
        self._node.log.info("every guest is stopped, and everything is said")
        return True

    async def _everything_is_stopped(self) -> bool:
        """One look: release whatever is here or was started here. True: there was nothing."""
        try:
            there = {domain.instance_id for domain in await self._hypervisor.domains()}
        except HypervisorUnreachable:
            return False
        held = sorted(there | self._node.recorded.runs.keys())
        done = await asyncio.gather(
            *(self._lanes.do(each, functools.partial(self._release, each)) for each in held),
            return_exceptions=True,
        )
        for instance_id, error in zip(held, done, strict=True):
            if isinstance(error, EvacError):
                self._node.log.warning("not released", instance_id=instance_id, why=str(error))
            elif error is not None:
                raise error
        return not held and self._lanes.idle

    async def _release(self, instance_id: str) -> None:
        """Tombstone, end, report: in this order, as for a commanded stop."""
        node = self._node
        domain = await self._hypervisor.find(instance_id)
        ran = node.recorded.runs.get(instance_id)
        epoch = max(domain.epoch if domain else 0, ran.epoch if ran else 0)
        if epoch == 0:
            return  # not evac's, or gone meanwhile
        if node.recorded.tomb(instance_id) < epoch:
            node.write(Released(instance_id=instance_id, epoch=epoch))
        await self._hypervisor.stop(instance_id, epoch=epoch, grace_s=GRACE_S)
        if await self._hypervisor.find(instance_id) is not None:
            raise HypervisorUnreachable("the domain was ended and is still there")
        node.remember_released(instance_id, epoch)
        if node.session is not None:
            node.write(
                node.report(
                    Stopped,
                    instance_id=instance_id,
                    epoch=epoch,
                    reason=StopReason.NODE_SHUTDOWN,
                )
            )
