"""The simulated double keeps the same contract, on virtual time."""

from __future__ import annotations

import pytest

from evac_common.model.states import PowerKind
from evac_monitor.adapters.power_simulated import Fault, SimulatedBmc, SimulatedPower
from evac_monitor.ports import PowerTarget
from tests.contract.power.contract import PowerContract

pytestmark = pytest.mark.looptime


class Flag:
    def __init__(self) -> None:
        self.on = True

    def power_off(self) -> None:
        self.on = False

    def is_on(self) -> bool:
        return self.on


class SimulatedBench:
    limit_s = 5.0
    system_uuid = "00112233-4455-6677-8899-aabbccddeeff"

    def __init__(self) -> None:
        self._machine = Flag()
        self._bmc = SimulatedBmc(
            machine=self._machine, address="n1-bmc", system_uuid=self.system_uuid
        )
        self.driver = SimulatedPower({"n1-bmc": self._bmc}.get, call_limit_s=self.limit_s)

    def target(self, *, password: str | None = None) -> PowerTarget:
        return self._target("n1-bmc", self._bmc.password if password is None else password)

    def unreachable_target(self) -> PowerTarget:
        return self._target("nowhere", self._bmc.password)

    def _target(self, address: str, password: str) -> PowerTarget:
        return PowerTarget(
            node_id="1" * 32,
            kind=PowerKind.IPMI,
            address=address,
            port=623,
            username="admin",
            password=password,
        )

    def is_on(self) -> bool:
        return self._machine.on

    def make_slow(self) -> None:
        self._bmc.fault = Fault.SLOW

    def make_lying(self) -> None:
        self._bmc.fault = Fault.LIES

    def hide_identity(self) -> None:
        self._bmc.system_uuid = None


@pytest.fixture
def bench() -> SimulatedBench:
    return SimulatedBench()


class TestSimulated(PowerContract):
    pass
