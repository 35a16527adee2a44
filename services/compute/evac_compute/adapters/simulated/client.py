"""The hypervisor port over calls to a simulated hypervisor, wherever that is.

A start is two calls, `build` and `execute`, as with a real hypervisor: whoever gives up waiting
for the first never makes the second.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evac_common.messages.commands import InstanceSpec
from evac_common.messages.reports import StartErrorKind
from evac_common.model.identity import Gen
from evac_compute.ports import Domain, Facts, HypervisorEvent, HypervisorUnreachable, StartError

Sink = Callable[[HypervisorEvent], None]

POLL_S = 0.1


class SimulatedPort(ABC):
    def __init__(self, *, call_time_limit_s: float, start_time_limit_s: float) -> None:
        self._call_s, self._start_s = call_time_limit_s, start_time_limit_s
        self._sinks: list[Sink] = []

    @abstractmethod
    async def call(self, op: str, args: Mapping[str, Any]) -> Any:
        """One call. Raises HypervisorUnreachable and StartError; need not end by itself."""

    async def facts(self) -> Facts:
        found = await self._within("facts", {})
        return Facts(
            hypervisor="simulated 1",
            vcpus=found["vcpus"],
            memory_mib=found["memory_mib"],
            bridges=tuple(found["bridges"]),
        )

    async def domains(self) -> Sequence[Domain]:
        return tuple(Domain(**domain) for domain in await self._within("domains", {}))

    async def find(self, instance_id: str) -> Domain | None:
        found = await self._within("find", {"instance_id": instance_id})
        return None if found is None else Domain(**found)

    async def start(
        self, spec: InstanceSpec, *, instance_id: str, epoch: int, run: int, gen: Gen
    ) -> None:
        wanted = {"instance_id": instance_id, "epoch": epoch, "run": run}
        present = await self.find(instance_id)
        if present is None:
            build = {"spec": spec.model_dump(mode="json"), **wanted}
            await self._within("build", build, limit_s=self._start_s)
        elif (present.epoch, present.run) != (epoch, run):
            detail = f"a domain of epoch {present.epoch}, run {present.run} is there"
            raise StartError(StartErrorKind.HYPERVISOR, detail)
        await self._within("execute", wanted)

    async def stop(self, instance_id: str, *, epoch: int, grace_s: float) -> None:
        target = {"instance_id": instance_id, "epoch": epoch}
        if grace_s > 0 and await self._there(instance_id, epoch):
            await self._within("press_power_button", target)
            loop = asyncio.get_running_loop()
            until_s = loop.time() + grace_s
            while await self._there(instance_id, epoch):
                left_s = until_s - loop.time()
                if left_s <= 0:
                    break
                await asyncio.sleep(min(POLL_S, left_s))
        await self.destroy(instance_id, epoch=epoch)

    async def destroy(self, instance_id: str, *, epoch: int) -> None:
        await self._within("destroy", {"instance_id": instance_id, "epoch": epoch})

    async def discard(self, instance_id: str, *, epoch: int, run: int) -> None:
        wanted = {"instance_id": instance_id, "epoch": epoch, "run": run}
        await self._within("discard", wanted)

    def subscribe(self, sink: Sink) -> None:
        self._sinks.append(sink)

    def tell(self, event: HypervisorEvent) -> None:
        """Hand an event to everybody who subscribed."""
        for sink in self._sinks:
            sink(event)

    async def _there(self, instance_id: str, epoch: int) -> bool:
        found = await self.find(instance_id)
        return found is not None and found.epoch <= epoch

    async def _within(
        self, op: str, args: Mapping[str, Any], *, limit_s: float | None = None
    ) -> Any:
        limit_s = limit_s or self._call_s
        try:
            async with asyncio.timeout(limit_s):
                return await self.call(op, args)
        except TimeoutError as error:
            raise HypervisorUnreachable(f"no answer to {op} in {limit_s} s") from error
