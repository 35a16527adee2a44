"""What any driver of a BMC must do. The IPMI driver and its simulated double both pass it.

A subclass gives fixtures: `bench`, which makes BMCs and breaks them, and through it the driver.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import pytest

from evac_monitor.core.fencing import PowerState, same_system
from evac_monitor.ports import PowerDriver, PowerError, PowerTarget


class Bench(Protocol):
    """One BMC with a machine that is on, and the driver that speaks to it."""

    driver: PowerDriver
    limit_s: float  # of one call of the driver
    system_uuid: str

    def target(self, *, password: str | None = None) -> PowerTarget: ...

    def unreachable_target(self) -> PowerTarget: ...

    def is_on(self) -> bool:
        """The machine itself, not what its BMC says."""

    def make_slow(self) -> None:
        """From now on the BMC answers too late."""

    def make_lying(self) -> None:
        """From now on it accepts the order to power off and does nothing."""

    def hide_identity(self) -> None:
        """It does not know whose BMC it is."""


class PowerContract:
    async def test_a_machine_that_is_on_reads_on(self, bench: Bench) -> None:
        assert await bench.driver.power_state(bench.target()) is PowerState.ON

    async def test_after_the_order_the_machine_is_off_and_reads_off(self, bench: Bench) -> None:
        await bench.driver.power_off(bench.target())

        assert not bench.is_on()
        assert await bench.driver.power_state(bench.target()) is PowerState.OFF

    async def test_powering_off_what_is_off_is_harmless(self, bench: Bench) -> None:
        await bench.driver.power_off(bench.target())
        await bench.driver.power_off(bench.target())

        assert await bench.driver.power_state(bench.target()) is PowerState.OFF

    async def test_a_wrong_password_is_hopeless_and_touches_nothing(self, bench: Bench) -> None:
        with pytest.raises(PowerError) as failed:
            await bench.driver.power_off(bench.target(password="wrong"))

        assert failed.value.hopeless
        assert "wrong" not in str(failed.value).replace("wrong password", "")
        assert bench.is_on()

    async def test_an_unreachable_bmc_is_an_error_within_the_limit(self, bench: Bench) -> None:
        began_s = asyncio.get_running_loop().time()

        with pytest.raises(PowerError) as failed:
            await bench.driver.power_state(bench.unreachable_target())

        assert not failed.value.hopeless
        assert asyncio.get_running_loop().time() - began_s < bench.limit_s + 1

    async def test_a_slow_bmc_is_an_error_within_the_limit(self, bench: Bench) -> None:
        bench.make_slow()
        began_s = asyncio.get_running_loop().time()

        with pytest.raises(PowerError) as failed:
            await bench.driver.power_state(bench.target())

        assert not failed.value.hopeless
        assert asyncio.get_running_loop().time() - began_s < bench.limit_s + 1

    async def test_a_lying_bmc_accepts_the_order_and_still_reads_on(self, bench: Bench) -> None:
        bench.make_lying()

        await bench.driver.power_off(bench.target())

        assert await bench.driver.power_state(bench.target()) is PowerState.ON
        assert bench.is_on()

    async def test_a_bmc_tells_whose_it_is(self, bench: Bench) -> None:
        told = await bench.driver.identity(bench.target())

        assert told is not None
        assert same_system(told, bench.system_uuid)

    async def test_a_bmc_that_does_not_know_whose_it_is_says_so(self, bench: Bench) -> None:
        bench.hide_identity()

        assert await bench.driver.identity(bench.target()) is None

    async def test_a_call_may_be_cancelled_at_any_time(self, bench: Bench) -> None:
        bench.make_slow()
        call = asyncio.create_task(bench.driver.power_state(bench.target()))
        await asyncio.sleep(0.2)

        call.cancel()

        with pytest.raises(asyncio.CancelledError):
            await call
