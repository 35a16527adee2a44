"""BMCs that exist only in memory: the double of the IPMI driver, for the simulator and the tests.

The machine behind a BMC is an object that the simulator gives in. The BMC itself can be told to be
slow, unreachable, to refuse the password, or to lie; the driver knows nothing of that: it asks, and
gets what a real one would answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from evac_monitor.core.fencing import PowerState
from evac_monitor.ports import PowerError, PowerTarget


class Machine(Protocol):
    """What a BMC sits on."""

    def power_off(self) -> None:
        """Cut the power: everything on it is gone when this returns."""

    def is_on(self) -> bool: ...


class Fault(StrEnum):
    NONE = "none"
    UNREACHABLE = "unreachable"  # nothing answers
    SLOW = "slow"  # every answer takes `delay_s`
    LIES = "lies"  # it accepts the order and does nothing
    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - the name of a fault


@dataclass(slots=True, kw_only=True)
class SimulatedBmc:
    machine: Machine
    address: str
    username: str = "admin"
    password: str = "secret"  # noqa: S105 - a BMC that exists only in memory
    system_uuid: str | None = None
    fault: Fault = Fault.NONE
    delay_s: float = 60.0  # of a slow one
    answer_s: float = 0.1
    calls: list[str] = field(default_factory=list)


class SimulatedPower:
    """PowerDriver over the BMCs that `find` knows by address."""

    def __init__(
        self, find: Callable[[str], SimulatedBmc | None], *, call_limit_s: float = 5.0
    ) -> None:
        self._find = find
        self._call_limit_s = call_limit_s

    async def power_off(self, target: PowerTarget) -> None:
        bmc = await self._reach(target, "power_off")
        if bmc.fault is not Fault.LIES:
            bmc.machine.power_off()

    async def power_state(self, target: PowerTarget) -> PowerState:
        bmc = await self._reach(target, "power_state")
        return PowerState.ON if bmc.machine.is_on() else PowerState.OFF

    async def identity(self, target: PowerTarget) -> str | None:
        bmc = await self._reach(target, "identity")
        return bmc.system_uuid

    async def _reach(self, target: PowerTarget, call: str) -> SimulatedBmc:
        bmc = self._find(target.address)
        if bmc is None or bmc.fault is Fault.UNREACHABLE:
            await asyncio.sleep(self._call_limit_s)
            raise PowerError(f"the BMC at {target.address} did not answer")
        bmc.calls.append(call)
        slow = bmc.fault is Fault.SLOW
        answer_s = bmc.delay_s if slow else bmc.answer_s
        await asyncio.sleep(min(answer_s, self._call_limit_s))
        if answer_s > self._call_limit_s:
            raise PowerError(f"the BMC at {target.address} did not answer")
        wrong = (target.username, target.password) != (bmc.username, bmc.password)
        if wrong or bmc.fault is Fault.WRONG_PASSWORD:
            raise PowerError(f"the BMC at {target.address} refused user or password", hopeless=True)
        return bmc
