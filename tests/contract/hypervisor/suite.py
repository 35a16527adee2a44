"""What any hypervisor must do for the daemon. Each adapter's tests subclass this once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Protocol

import pytest

from evac_common.messages.commands import InstanceSpec, NicSpec
from evac_common.messages.reports import StartErrorKind
from evac_common.model.identity import Gen
from evac_common.model.states import ExitReason
from evac_compute.ports import (
    Domain,
    DomainEnded,
    Hypervisor,
    HypervisorBack,
    HypervisorEvent,
    HypervisorLost,
    HypervisorUnreachable,
    StartError,
)

GEN = Gen(7, 2)
LIMIT_S = 15.0

_numbers = itertools.count(1)


class Bench(Protocol):
    """A hypervisor under test, and what its guests and its daemon can be made to do."""

    port: Hypervisor

    async def another_port(self) -> Hypervisor:
        """The port of a daemon that is started anew."""

    async def crash(self, instance_id: str) -> None:
        """End the guest as a crash does."""


class LosableBench(Bench, Protocol):
    async def away(self) -> None:
        """The hypervisor's daemon dies (guests may, or may not, go with it)."""

    async def back(self) -> None: ...


def fresh_id() -> str:
    return f"{next(_numbers):032x}"


def spec(instance_id: str, *, memory_mib: int = 8) -> InstanceSpec:
    return InstanceSpec(name=f"guest-{int(instance_id, 16)}", vcpus=1, memory_mib=memory_mib)


async def start(port: Hypervisor, instance_id: str, *, epoch: int = 1, run: int = 1) -> None:
    await port.start(spec(instance_id), instance_id=instance_id, epoch=epoch, run=run, gen=GEN)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


def domain(instance_id: str, *, epoch: int = 1, run: int = 1) -> Domain:
    return Domain(instance_id=instance_id, epoch=epoch, run=run, running=True)


class HypervisorContract:
    async def test_at_first_there_is_nothing(self, bench: Bench) -> None:
        assert await bench.port.domains() == ()
        assert await bench.port.find(fresh_id()) is None

    async def test_it_says_what_it_is(self, bench: Bench) -> None:
        facts = await bench.port.facts()
        assert facts.hypervisor
        assert facts.vcpus >= 1
        assert facts.memory_mib >= 64

    async def test_what_was_started_executes_and_says_who_it_is(self, bench: Bench) -> None:
        one, two = fresh_id(), fresh_id()
        await start(bench.port, two, epoch=5, run=3)
        await start(bench.port, one, epoch=1, run=1)
        expected = (domain(one), domain(two, epoch=5, run=3))
        assert await bench.port.domains() == expected
        assert await bench.port.find(two) == expected[1]

    async def test_starting_the_same_run_twice_is_harmless(self, bench: Bench) -> None:
        one = fresh_id()
        await start(bench.port, one)
        await start(bench.port, one)
        assert await bench.port.domains() == (domain(one),)

    @pytest.mark.parametrize(("epoch", "run"), [(3, 1), (1, 1), (2, 2), (2, 0)])
    async def test_beside_another_epoch_or_run_nothing_is_started(
        self, bench: Bench, epoch: int, run: int
    ) -> None:
        one = fresh_id()
        await start(bench.port, one, epoch=2, run=1)
        with pytest.raises(StartError) as raised:
            await start(bench.port, one, epoch=epoch, run=run)
        assert raised.value.kind is StartErrorKind.HYPERVISOR
        assert await bench.port.domains() == (domain(one, epoch=2),)

    async def test_destroy_ends_this_epoch_and_older_ones_but_no_newer_one(
        self, bench: Bench
    ) -> None:
        one = fresh_id()
        await start(bench.port, one, epoch=4)
        await bench.port.destroy(one, epoch=3)
        assert await bench.port.domains() == (domain(one, epoch=4),)
        await bench.port.destroy(one, epoch=5)
        assert await bench.port.domains() == ()
        await bench.port.destroy(one, epoch=5)

    @pytest.mark.parametrize(("epoch", "run"), [(4, 2), (4, 1), (5, 2)])
    async def test_what_executes_is_never_discarded(
        self, bench: Bench, epoch: int, run: int
    ) -> None:
        one = fresh_id()
        await start(bench.port, one, epoch=4, run=2)
        await bench.port.discard(one, epoch=epoch, run=run)
        assert await bench.port.domains() == (domain(one, epoch=4, run=2),)
        await bench.port.discard(fresh_id(), epoch=epoch, run=run)

    async def test_stop_ends_this_epoch_within_its_grace_and_no_newer_one(
        self, bench: Bench
    ) -> None:
        one = fresh_id()
        await start(bench.port, one, epoch=4)
        await bench.port.stop(one, epoch=3, grace_s=0.5)
        assert await bench.port.domains() == (domain(one, epoch=4),)
        async with asyncio.timeout(LIMIT_S):
            await bench.port.stop(one, epoch=4, grace_s=0.5)
        assert await bench.port.find(one) is None
        await bench.port.stop(one, epoch=4, grace_s=0.5)

    async def test_an_instance_may_come_back_under_a_later_epoch(self, bench: Bench) -> None:
        one = fresh_id()
        await start(bench.port, one, epoch=1)
        await bench.port.destroy(one, epoch=1)
        await start(bench.port, one, epoch=2)
        assert await bench.port.domains() == (domain(one, epoch=2),)

    async def test_an_end_is_told_with_its_run_and_reason(self, bench: Bench) -> None:
        heard: list[HypervisorEvent] = []
        bench.port.subscribe(heard.append)
        one, two = fresh_id(), fresh_id()
        await start(bench.port, one, epoch=2, run=3)
        await start(bench.port, two)
        assert not [event for event in heard if isinstance(event, DomainEnded)]

        await bench.crash(one)
        await bench.port.destroy(two, epoch=1)

        crashed = DomainEnded(instance_id=one, epoch=2, run=3, reason=ExitReason.CRASHED)
        destroyed = DomainEnded(instance_id=two, epoch=1, run=1, reason=ExitReason.DESTROYED)
        await until(lambda: crashed in heard and destroyed in heard)
        assert await bench.port.domains() == ()

    async def test_the_next_daemon_finds_what_the_last_one_started(self, bench: Bench) -> None:
        one = fresh_id()
        await start(bench.port, one, epoch=2, run=3)
        port = await bench.another_port()
        assert await port.domains() == (domain(one, epoch=2, run=3),)
        heard: list[HypervisorEvent] = []
        port.subscribe(heard.append)
        await bench.crash(one)
        ended = DomainEnded(instance_id=one, epoch=2, run=3, reason=ExitReason.CRASHED)
        await until(lambda: ended in heard)


class WholeHypervisorContract(HypervisorContract):
    """Also what libvirt's test driver cannot do: networks, and being away."""

    async def test_a_missing_bridge_is_named_and_leaves_nothing(self, bench: LosableBench) -> None:
        one = fresh_id()
        nics = [NicSpec(bridge="no-such-bridge", mac="52:54:00:00:00:01")]
        wanted = spec(one).model_copy(update={"nics": nics})
        with pytest.raises(StartError) as raised:
            await bench.port.start(wanted, instance_id=one, epoch=1, run=1, gen=GEN)
        assert raised.value.kind is StartErrorKind.NETWORK
        assert await bench.port.domains() == ()

    async def test_while_it_is_away_calls_fail_as_unknown_and_its_return_is_told(
        self, bench: LosableBench
    ) -> None:
        heard: list[HypervisorEvent] = []
        bench.port.subscribe(heard.append)
        await bench.away()
        await until(lambda: any(isinstance(event, HypervisorLost) for event in heard))
        for call in (
            bench.port.domains(),
            bench.port.facts(),
            bench.port.destroy(fresh_id(), epoch=1),
            start(bench.port, fresh_id()),
        ):
            with pytest.raises(HypervisorUnreachable):
                await call
        await bench.back()
        await until(lambda: isinstance(heard[-1], HypervisorBack))
        await start(bench.port, fresh_id())


class PausableBench(Bench, Protocol):
    async def pause(self, instance_id: str) -> None:
        """It executes no more, and its domain stays."""


class PausableContract:
    async def test_what_does_not_execute_is_discarded_if_it_is_of_this_very_run(
        self, bench: PausableBench
    ) -> None:
        one = fresh_id()
        await start(bench.port, one, epoch=4, run=2)
        await bench.pause(one)
        for epoch, run in ((4, 1), (4, 3), (3, 2), (5, 2)):
            await bench.port.discard(one, epoch=epoch, run=run)
        (left,) = await bench.port.domains()
        assert (left.epoch, left.run, left.running) == (4, 2, False)

        await bench.port.discard(one, epoch=4, run=2)

        assert await bench.port.domains() == ()
