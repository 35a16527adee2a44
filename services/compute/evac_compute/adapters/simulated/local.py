"""The simulated hypervisor on a loop: delays, faults on demand, and the port to it.

`SimulatedHypervisor` belongs to the node's machine, not to the daemon: whatever it began goes on
when the daemon dies. `LocalHypervisor` is one daemon's connection to it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from typing import Any

from evac_common.messages.commands import InstanceSpec
from evac_common.messages.reports import StartErrorKind
from evac_common.model.states import ExitReason
from evac_compute.adapters.simulated.client import SimulatedPort, Sink
from evac_compute.adapters.simulated.core import GUEST_ENDS, Guest, HypervisorCore, Refused
from evac_compute.adapters.simulated.demands import DIE_EARLY, REFUSE_START, GuestDemands
from evac_compute.ports import (
    DomainEnded,
    HypervisorBack,
    HypervisorEvent,
    HypervisorLost,
    HypervisorUnreachable,
    StartError,
)

DIES_EARLY_S = 1.0  # after its start


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
        demands: GuestDemands | None = None,
    ) -> None:
        self.core = core
        self.slower_by_s: dict[str, float] = {}  # a start, and why: on demand
        self.locks_left = False  # image locks of dead guests are left over: no start works
        self.start_delay_s = start_delay_s
        self.answer_delays_s: dict[str, float] = {}  # by operation, on demand
        self.event_delay_s = 0.0  # of the end of a guest, which a call may show earlier
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
        self._storage = asyncio.Event()
        self._storage.set()
        self._demands = demands or GuestDemands()
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

    def hang_storage(self) -> None:
        """Guests' I/O hangs until `heal_storage`: no start ends, and no guest can be ended.

        A guest that waits for its disk is in the kernel's hands: SIGKILL reaches it afterwards. It
        counts as executing, for it goes on once the storage answers.
        """
        self._storage.clear()

    def heal_storage(self) -> None:
        self._storage.set()

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

    def lose_guest(self, instance_id: str) -> None:
        """It ends, the hypervisor knows nothing of it any more, and nobody is told."""
        self.core.end(self.now(), instance_id, "lost")

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

    async def call(self, op: str, args: Mapping[str, Any]) -> Any:
        """Answer a call in values that JSON knows. Raises HypervisorUnreachable and StartError."""
        answer = await self._carry_out(op, args)
        # An answer is under way for a moment: a daemon may die with the deed done and unheard of.
        await asyncio.sleep(self.answer_delays_s.get(op, 0.0))
        return answer

    async def _carry_out(self, op: str, args: Mapping[str, Any]) -> Any:
        await self._answer()
        guests = self.core.guests
        match op:
            case "facts":
                core = self.core
                return {
                    "vcpus": core.vcpus,
                    "memory_mib": core.memory_mib,
                    "bridges": list(core.bridges or ()),
                }
            case "domains":
                return [_shown(guests[instance_id]) for instance_id in sorted(guests)]
            case "find":
                guest = guests.get(args["instance_id"])
                return None if guest is None else _shown(guest)
            case "build":
                await asyncio.shield(self._build(**args))
                await self._answer()
            case "execute":
                self._execute(**args)
            case "press_power_button":
                self._press_power_button(**args)
            case "destroy" | "discard":
                if args["instance_id"] in guests:
                    await self._storage.wait()
                    self._check()
                end = self._destroy if op == "destroy" else self._discard
                end(**args)
            case _:
                raise ValueError(f"the simulated hypervisor knows no call {op!r}")
        return None

    def connect(self, sink: Sink) -> None:
        self._sinks.append(sink)

    def disconnect(self, sink: Sink) -> None:
        if sink in self._sinks:
            self._sinks.remove(sink)

    async def _answer(self) -> None:
        """Return when the hypervisor takes a call."""
        self._check()
        await self._answering.wait()
        self._check()

    def _check(self) -> None:
        if not self.powered or self.unreachable:
            raise HypervisorUnreachable(self.unreachable or "the node has no power")

    def _build(
        self, spec: Mapping[str, Any], instance_id: str, epoch: int, run: int
    ) -> asyncio.Future[None]:
        """Begin to build a domain that does not execute; goes on when its caller is gone."""
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
            if not all(each.is_set() for each in (self._starting, self._answering, self._storage)):
                loop.call_later(self.start_delay_s or 0.01, finish, context=self._context)
                return
            del self._building[instance_id]
            try:
                self._refuse_on_demand(spec["name"])
                self.core.build(
                    InstanceSpec.model_validate(spec), instance_id=instance_id, epoch=epoch, run=run
                )
            except Refused as refused:
                if not built.done():
                    built.set_exception(StartError(refused.kind, refused.detail))
                    built.exception()  # looked at: its caller may be gone
            else:
                if not built.done():
                    built.set_result(None)

        delay_s = self.start_delay_s + sum(self.slower_by_s.values())
        loop.call_later(delay_s, finish, context=self._context)
        return built

    def _refuse_on_demand(self, name: str) -> None:
        """Raises Refused when this start is to fail."""
        if self.refusals:
            raise Refused(*self.refusals.pop(0))
        if self.locks_left:
            raise Refused(StartErrorKind.STORAGE_LOCKED, "a lock of its image is left over")
        if self._demands.meets(REFUSE_START, name):
            raise Refused(StartErrorKind.HYPERVISOR, "on demand")

    def _execute(self, instance_id: str, epoch: int, run: int) -> None:
        guest = self.core.guests.get(instance_id)
        if guest is None or (guest.epoch, guest.run) != (epoch, run):
            raise StartError(StartErrorKind.HYPERVISOR, "the domain went away while it was started")
        began = guest.entry is None
        self.core.resume(self.now(), instance_id)
        if began and self._demands.meets(DIE_EARLY, guest.name):
            self._end_later(guest, DIES_EARLY_S, ExitReason.CRASHED, "died early")

    def _press_power_button(self, instance_id: str, epoch: int) -> None:
        guest = self.core.guests.get(instance_id)
        if guest is None or guest.epoch > epoch or guest.paused or not guest.obeys_power_button:
            return
        self._end_later(guest, self.poweroff_delay_s, ExitReason.SHUTDOWN, "guest poweroff")

    def _end_later(self, guest: Guest, delay_s: float, reason: ExitReason, why: str) -> None:
        """Let this very run end by itself, unless its I/O hangs then."""
        entry, boot, instance_id = guest.entry, self._boots, guest.instance_id

        def end() -> None:
            now = self.core.guests.get(instance_id)
            same = boot == self._boots and now is not None and now.entry is entry
            if same and self._storage.is_set():
                self._end(instance_id, reason, why)

        asyncio.get_running_loop().call_later(delay_s, end, context=self._context)

    def _destroy(self, instance_id: str, epoch: int) -> None:
        guest = self.core.guests.get(instance_id)
        if guest is not None and guest.epoch <= epoch:
            self._end(instance_id, ExitReason.DESTROYED, "destroyed")

    def _discard(self, instance_id: str, epoch: int, run: int) -> None:
        guest = self.core.guests.get(instance_id)
        if guest is not None and (guest.epoch, guest.run, guest.paused) == (epoch, run, True):
            self._end(instance_id, ExitReason.DESTROYED, "discarded")

    def _end(self, instance_id: str, reason: ExitReason, why: str) -> None:
        guest = self.core.end(self.now(), instance_id, why)
        if guest is None:
            return
        event = DomainEnded(
            instance_id=instance_id, epoch=guest.epoch, run=guest.run, reason=reason
        )
        if self.event_delay_s:
            loop = asyncio.get_running_loop()
            loop.call_later(self.event_delay_s, self._tell, event, context=self._context)
        else:
            self._tell(event)

    def _tell(self, event: HypervisorEvent) -> None:
        if self.unreachable and not isinstance(event, HypervisorLost):
            return
        for sink in list(self._sinks):
            sink(event)


def _shown(guest: Guest) -> dict[str, Any]:
    return {
        "instance_id": guest.instance_id,
        "epoch": guest.epoch,
        "run": guest.run,
        "running": not guest.paused,
    }


class LocalHypervisor(SimulatedPort):
    """One daemon's connection to a simulated hypervisor in the same process."""

    def __init__(
        self,
        hypervisor: SimulatedHypervisor,
        *,
        call_time_limit_s: float = 10.0,
        start_time_limit_s: float = 60.0,
    ) -> None:
        super().__init__(call_time_limit_s=call_time_limit_s, start_time_limit_s=start_time_limit_s)
        self._hypervisor = hypervisor
        hypervisor.connect(self.tell)

    async def call(self, op: str, args: Mapping[str, Any]) -> Any:
        return await self._hypervisor.call(op, args)

    def close(self) -> None:
        self._hypervisor.disconnect(self.tell)
