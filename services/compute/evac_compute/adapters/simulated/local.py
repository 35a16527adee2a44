"""The simulated hypervisor on a loop: delays, faults on demand, and the port over it.

`SimulatedHypervisor` belongs to the node's machine, not to the daemon: whatever it began goes on
when the daemon dies. `LocalHypervisor` is one daemon's connection to it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence

from evac_common.messages.commands import InstanceSpec
from evac_common.messages.reports import StartErrorKind
from evac_common.model.identity import Gen
from evac_common.model.states import ExitReason
from evac_compute.adapters.simulated.core import GUEST_ENDS, Guest, HypervisorCore, Refused
from evac_compute.ports import (
    Domain,
    DomainEnded,
    Facts,
    HypervisorBack,
    HypervisorEvent,
    HypervisorLost,
    HypervisorUnreachable,
    StartError,
)

Sink = Callable[[HypervisorEvent], None]


class SimulatedHypervisor:
    """One node's hypervisor, alive from `boot` to `power_cut`; the core's log spans all boots.

    Its timers run in an empty context: they belong to no simulated process, so what a daemon asked
    for goes on when the daemon is killed.
    """

    def __init__(
        self,
        core: HypervisorCore,
        *,
        start_delay_s: float = 0.5,
        poweroff_delay_s: float = 1.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.core = core
        self.start_delay_s = start_delay_s
        self.poweroff_delay_s = poweroff_delay_s  # of a guest that obeys its power button
        self.refusals: list[tuple[StartErrorKind, str]] = []  # the next starts end with these
        self.powered = True
        self.unreachable = ""  # why no call gets through; "": they do
        self._clock = clock
        self._context = contextvars.Context()
        self._answering = asyncio.Event()
        self._answering.set()
        self._starting = asyncio.Event()
        self._starting.set()
        self._building: dict[str, asyncio.Future[None]] = {}
        self._sinks: list[Sink] = []
        self._boots = 0

    # --- what a scenario may do ----------------------------------------------------------------

    def now(self) -> float:
        return self._clock() if self._clock else asyncio.get_running_loop().time()

    def refuse_starts(self, kind: StartErrorKind, *, times: int, detail: str = "on demand") -> None:
        """Let the next `times` starts fail."""
        self.refusals.extend([(kind, detail)] * times)

    def hang(self) -> None:
        """Answer nothing until `resume`; guests go on, and what was asked is done afterwards."""
        self._answering.clear()

    def hang_starts(self) -> None:
        """Answer everything but starts (its storage hangs); they are done after `resume`."""
        self._starting.clear()

    def resume(self) -> None:
        self._answering.set()
        self._starting.set()

    def go_away(self, why: str = "connection refused") -> None:
        """The hypervisor's daemon dies; guests go on."""
        self.unreachable = why
        self._tell(HypervisorLost(why=why))

    def come_back(self) -> None:
        self.unreachable = ""
        self._tell(HypervisorBack())

    def end_guest(self, instance_id: str, how: str) -> None:
        """`poweroff`, `crash` or `panic`, by the guest itself."""
        self._end(instance_id, GUEST_ENDS[how], f"guest {how}")

    def ignore_power_button(self, instance_id: str) -> None:
        self.core.guests[instance_id].obeys_power_button = False

    def power_cut(self) -> None:
        """The machine loses its power: guests and everything begun are gone, nobody is told."""
        self.powered = False
        self._boots += 1
        self._building.clear()
        self._sinks.clear()
        self.core.power_cut(self.now())

    def boot(self) -> None:
        """The machine has power again: no guests, no connections."""
        self.powered = True
        self.unreachable = ""
        self.resume()

    # --- what a connection asks ----------------------------------------------------------------

    def connect(self, sink: Sink) -> None:
        self._sinks.append(sink)

    def disconnect(self, sink: Sink) -> None:
        if sink in self._sinks:
            self._sinks.remove(sink)

    async def answering(self) -> None:
        """Return when the hypervisor takes a call."""
        self.check()
        await self._answering.wait()
        self.check()

    def check(self) -> None:
        if not self.powered or self.unreachable:
            raise HypervisorUnreachable(self.unreachable or "the node has no power")

    def build(
        self, spec: InstanceSpec, *, instance_id: str, epoch: int, run: int
    ) -> asyncio.Future[None]:
        """Begin to build a domain; the future ends with it, or with StartError. Survives its
        caller.
        """
        running = self._building.get(instance_id)
        if running is not None:
            return running
        loop = asyncio.get_running_loop()
        built: asyncio.Future[None] = loop.create_future()
        self._building[instance_id] = built
        boot = self._boots

        def finish() -> None:
            if boot != self._boots:
                return  # the power was cut meanwhile
            if not (self._starting.is_set() and self._answering.is_set()):
                loop.call_later(self.start_delay_s or 0.01, finish, context=self._context)
                return
            del self._building[instance_id]
            try:
                if self.refusals:
                    raise Refused(*self.refusals.pop(0))
                self.core.build(spec, instance_id=instance_id, epoch=epoch, run=run)
            except Refused as refused:
                if not built.done():
                    built.set_exception(StartError(refused.kind, refused.detail))
                    built.exception()  # looked at: its caller may be gone
            else:
                if not built.done():
                    built.set_result(None)

        loop.call_later(self.start_delay_s, finish, context=self._context)
        return built

    def press_power_button(self, instance_id: str) -> None:
        guest = self.core.guests.get(instance_id)
        if guest is None or guest.paused or not guest.obeys_power_button:
            return
        entry, boot = guest.entry, self._boots

        def off() -> None:
            now = self.core.guests.get(instance_id)
            if boot == self._boots and now is not None and now.entry is entry:
                self._end(instance_id, ExitReason.SHUTDOWN, "guest poweroff")

        asyncio.get_running_loop().call_later(self.poweroff_delay_s, off, context=self._context)

    def destroy(self, instance_id: str) -> None:
        self._end(instance_id, ExitReason.DESTROYED, "destroyed")

    def _end(self, instance_id: str, reason: ExitReason, why: str) -> None:
        guest = self.core.end(self.now(), instance_id, why)
        if guest is not None:
            self._tell(
                DomainEnded(
                    instance_id=instance_id, epoch=guest.epoch, run=guest.run, reason=reason
                )
            )

    def _tell(self, event: HypervisorEvent) -> None:
        if self.unreachable and not isinstance(event, HypervisorLost):
            return
        for sink in list(self._sinks):
            sink(event)


class LocalHypervisor:
    """The port, over a `SimulatedHypervisor` in the same process."""

    POLL_S = 0.1

    def __init__(
        self,
        hypervisor: SimulatedHypervisor,
        *,
        call_time_limit_s: float = 10.0,
        start_time_limit_s: float = 60.0,
    ) -> None:
        self._hypervisor = hypervisor
        self._call_s, self._start_s = call_time_limit_s, start_time_limit_s
        self._sinks: list[Sink] = []

    async def facts(self) -> Facts:
        await self._answered()
        core = self._hypervisor.core
        return Facts(
            hypervisor="simulated 1",
            vcpus=core.vcpus,
            memory_mib=core.memory_mib,
            bridges=core.bridges or (),
        )

    async def domains(self) -> Sequence[Domain]:
        await self._answered()
        guests = self._hypervisor.core.guests
        return tuple(_domain(guests[instance_id]) for instance_id in sorted(guests))

    async def find(self, instance_id: str) -> Domain | None:
        await self._answered()
        guest = self._hypervisor.core.guests.get(instance_id)
        return None if guest is None else _domain(guest)

    async def start(
        self, spec: InstanceSpec, *, instance_id: str, epoch: int, run: int, gen: Gen
    ) -> None:
        hypervisor = self._hypervisor
        try:
            async with asyncio.timeout(self._start_s):
                await self._answered()
                guest = hypervisor.core.guests.get(instance_id)
                if guest is None:
                    built = hypervisor.build(spec, instance_id=instance_id, epoch=epoch, run=run)
                    await asyncio.shield(built)
                elif (guest.epoch, guest.run) != (epoch, run):
                    detail = f"a domain of epoch {guest.epoch}, run {guest.run} is there"
                    raise StartError(StartErrorKind.HYPERVISOR, detail)
                await self._answered()
        except TimeoutError as error:
            raise HypervisorUnreachable(f"no answer to a start in {self._start_s} s") from error
        guest = hypervisor.core.guests.get(instance_id)
        if guest is None or (guest.epoch, guest.run) != (epoch, run):
            raise StartError(StartErrorKind.HYPERVISOR, "the domain went away while it was started")
        hypervisor.core.resume(hypervisor.now(), instance_id)

    async def stop(self, instance_id: str, *, epoch: int, grace_s: float) -> None:
        if await self._there(instance_id, epoch) and grace_s > 0:
            self._hypervisor.press_power_button(instance_id)
            loop = asyncio.get_running_loop()
            until_s = loop.time() + grace_s
            while await self._there(instance_id, epoch):
                left_s = until_s - loop.time()
                if left_s <= 0:
                    break
                await asyncio.sleep(min(self.POLL_S, left_s))
        await self.destroy(instance_id, epoch=epoch)

    async def destroy(self, instance_id: str, *, epoch: int) -> None:
        if await self._there(instance_id, epoch):
            self._hypervisor.destroy(instance_id)

    def subscribe(self, sink: Sink) -> None:
        self._sinks.append(sink)
        self._hypervisor.connect(sink)

    def close(self) -> None:
        for sink in self._sinks:
            self._hypervisor.disconnect(sink)

    async def _there(self, instance_id: str, epoch: int) -> bool:
        await self._answered()
        guest = self._hypervisor.core.guests.get(instance_id)
        return guest is not None and guest.epoch <= epoch

    async def _answered(self) -> None:
        try:
            async with asyncio.timeout(self._call_s):
                await self._hypervisor.answering()
        except TimeoutError as error:
            raise HypervisorUnreachable(f"no answer in {self._call_s} s") from error


def _domain(guest: Guest) -> Domain:
    return Domain(
        instance_id=guest.instance_id, epoch=guest.epoch, run=guest.run, running=not guest.paused
    )
