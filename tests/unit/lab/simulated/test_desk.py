"""What each line of a time line does to the simulated world, and that it is told once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from evac_common.messages.commands import InstanceSpec
from evac_common.messages.reports import StartErrorKind
from evac_common.model.identity import Gen
from evac_common.model.states import PowerKind
from evac_compute.adapters.simulated.local import LocalHypervisor
from evac_compute.core.record import Released
from evac_compute.ports import DomainEnded, HypervisorEvent, HypervisorUnreachable, StartError
from evac_lab.oracle.ports import NoWitness
from evac_lab.runner import LabFailed
from evac_lab.scenario.reading import from_text
from evac_lab.scenario.verbs import parse_step
from evac_lab.simulated.cluster import Doubles, SimulatedCluster
from evac_lab.simulated.loop import SeededLoop, run
from evac_monitor.adapters.power_simulated import SimulatedPower
from evac_monitor.core.fencing import PowerState
from evac_monitor.ports import PowerError, PowerTarget

SCENARIO = """
name: desk
replicas: {monitor: 3, scheduler: 2}
nodes:
  n1: {vcpus: 4, memory_mib: 4096, power: ipmi}
  n2: {vcpus: 4, memory_mib: 4096, power: ipmi}
timeline:
  - at 1 end
"""
WEB = "a" * 32


class Notes(NoWitness):
    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self.guests: list[tuple[str, str]] = []
        self.power: list[tuple[str, str]] = []

    def fault(self, component: str, kind: str, at_s: float) -> None:
        self.faults[f"{component} {kind}"] += 1

    def began(self, node: str, instance_id: str, epoch: int, run: int, at_s: float) -> None:
        self.guests.append((node, "began"))

    def ended(self, node: str, instance_id: str, epoch: int, run: int, at_s: float) -> None:
        self.guests.append((node, "ended"))

    def booted(self, node: str, at_s: float) -> None:
        self.power.append((node, "on"))

    def powered_off(self, node: str, at_s: float) -> None:
        self.power.append((node, "off"))


@dataclass(slots=True)
class World:
    """Machines that are on, with nobody's daemon: the tests speak to the hardware themselves."""

    cluster: SimulatedCluster
    notes: Notes

    async def do(self, line: str) -> None:
        await self.cluster.act(parse_step(f"at 0 {line}").action)

    def port(self, node: str = "n1") -> LocalHypervisor:
        return LocalHypervisor(self.cluster.machines[node].hypervisor, start_time_limit_s=500.0)

    async def start_web(self, node: str = "n1", *, run: int = 1) -> float:
        """Seconds that it took."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        spec = InstanceSpec(name="web-1", vcpus=1, memory_mib=512)
        await self.port(node).start(spec, instance_id=WEB, epoch=1, run=run, gen=Gen(1, 1))
        return loop.time() - began_s

    @property
    def power(self) -> SimulatedPower:
        return SimulatedPower(self.cluster._nodes.bmc_at)

    def executing(self, node: str = "n1") -> int:
        return len(self.cluster.machines[node].hypervisor.core.executing())


def at_desk(story: Callable[[World], Awaitable[None]]) -> Notes:
    async def main(loop: SeededLoop) -> Notes:
        notes = Notes()
        cluster = SimulatedCluster(
            loop,
            from_text(SCENARIO, "desk.yaml"),
            seed=1,
            directory=Path("/nowhere"),
            doubles=Doubles(),
            witness=notes,
        )
        for machine in cluster.machines.values():
            machine.power_on()
        await story(World(cluster, notes))
        return notes

    return run(1, main)


def target(node: str) -> PowerTarget:
    return PowerTarget(
        node_id="1" * 32,
        kind=PowerKind.IPMI,
        address=f"bmc-{node}",
        port=623,
        username="admin",
        password="simulated",
    )


# -- hardware ------------------------------------------------------------------------------------


def test_the_plug_ends_guests_and_is_told_in_order() -> None:
    async def story(world: World) -> None:
        await world.start_web()
        await world.do("power n1 off")
        await world.do("power n1 off")  # nothing more can be taken away
        await world.do("power n1 on")

    notes = at_desk(story)
    assert notes.guests == [("n1", "began"), ("n1", "ended")]
    assert notes.power == [("n1", "on"), ("n2", "on"), ("n1", "off"), ("n1", "on")]
    assert notes.faults == {"C power": 1}


def test_a_disk_goes_back_only_while_its_node_is_off() -> None:
    async def story(world: World) -> None:
        machine = world.cluster.machines["n1"]
        await world.do("disk n1 save")
        machine.journal.write([Released(instance_id=WEB, epoch=3)])
        with pytest.raises(LabFailed, match="is on"):
            await world.do("disk n1 restore")
        await world.do("power n1 off")
        await world.do("disk n1 restore")
        assert machine.journal.load().tombs == {}
        with pytest.raises(LabFailed, match="nothing was saved"):
            await world.do("power n2 off")
            await world.do("disk n2 restore")

    assert at_desk(story).faults["C restore"] == 1


def test_a_clone_has_anothers_name_from_its_next_boot_on_its_own_hardware() -> None:
    async def story(world: World) -> None:
        n1, n2 = world.cluster.machines["n1"], world.cluster.machines["n2"]
        n1.node_id, n2.node_id = "1" * 32, "2" * 32
        await world.do("identity n2 of n1")
        assert n2.identity().node_id == "2" * 32
        n2.power_off()
        n2.power_on()
        clone = n2.identity()
        assert (clone.node_id, clone.name) == ("1" * 32, "n1")
        assert clone.dmi_uuid != n1.identity().dmi_uuid
        await world.do("identity n2 own")
        n2.power_off()
        n2.power_on()
        assert n2.identity().node_id == "2" * 32

    at_desk(story)


# -- BMCs ----------------------------------------------------------------------------------------


def test_a_lying_bmc_cuts_nothing_and_a_wrong_one_cuts_another_machine() -> None:
    async def story(world: World) -> None:
        machines, power = world.cluster.machines, world.power
        await world.do("bmc n1 lies")
        await power.power_off(target("n1"))
        assert machines["n1"].is_on()
        await world.do("bmc n1 wrong")
        assert await power.identity(target("n1")) == machines["n2"].dmi_uuid
        await power.power_off(target("n1"))
        assert (machines["n1"].is_on(), machines["n2"].is_on()) == (True, False)
        await world.do("bmc n1 on")
        assert await power.identity(target("n1")) == machines["n1"].dmi_uuid
        await power.power_off(target("n1"))
        assert not machines["n1"].is_on()

    assert at_desk(story).faults == {"P lies": 1, "P wrong": 1}


@pytest.mark.parametrize("state", ["off", "slow"])
def test_a_bmc_that_does_not_answer_in_time_is_an_error(state: str) -> None:
    async def story(world: World) -> None:
        await world.do(f"bmc n1 {state}")
        with pytest.raises(PowerError):
            await world.power.power_off(target("n1"))
        assert world.cluster.machines["n1"].is_on()
        await world.do("bmc n1 on")
        assert await world.power.power_state(target("n1")) is PowerState.ON

    assert at_desk(story).faults == {f"P {state}": 1}


# -- storage and libvirt -------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["storage n1 off", "network n1 off from storage"])
def test_without_its_storage_nothing_starts_and_nothing_can_be_ended(cut: str) -> None:
    async def story(world: World) -> None:
        await world.start_web()
        await world.do(cut)
        with pytest.raises(HypervisorUnreachable):
            await world.port().destroy(WEB, epoch=1)
        assert world.executing() == 1
        await world.do(cut.replace("off", "on"))
        await asyncio.sleep(1)
        await world.port().destroy(WEB, epoch=1)
        assert world.executing() == 0

    at_desk(story)


def test_storage_is_whole_only_when_neither_it_nor_the_way_is_cut() -> None:
    async def story(world: World) -> None:
        await world.do("storage n1 off")
        await world.do("network n1 off")
        await world.do("network n1 on")
        starting = asyncio.create_task(world.start_web())
        await asyncio.sleep(20)
        assert not starting.done()
        await world.do("storage n1 on")
        await starting

    assert at_desk(story).faults == {"N off": 1, "W off": 1}


def test_left_over_locks_refuse_starts_by_name() -> None:
    async def story(world: World) -> None:
        await world.do("storage n1 locked")
        with pytest.raises(StartError) as refused:
            await world.start_web()
        assert refused.value.kind is StartErrorKind.STORAGE_LOCKED
        await world.start_web("n2")
        await world.do("storage n1 on")
        await world.start_web("n1")

    at_desk(story)


@pytest.mark.parametrize(
    ("line", "well", "seconds"),
    [("storage n1 slow", "storage n1 on", 11.0), ("libvirt n1 slow", "libvirt n1 resume", 301.0)],
)
def test_slow_starts_take_longer(line: str, well: str, seconds: float) -> None:
    async def story(world: World) -> None:
        await world.do(line)
        assert await world.start_web() == pytest.approx(seconds)
        await world.port().destroy(WEB, epoch=1)
        await world.do(well)
        assert await world.start_web() == pytest.approx(1.0)

    at_desk(story)


def test_a_killed_libvirt_is_back_after_five_seconds_and_its_guests_live() -> None:
    async def story(world: World) -> None:
        await world.start_web()
        await world.do("libvirt n1 kill")
        with pytest.raises(HypervisorUnreachable):
            await world.port().domains()
        await asyncio.sleep(6)
        assert [domain.running for domain in await world.port().domains()] == [True]

    assert at_desk(story).faults == {"V kill": 1}


# -- guests --------------------------------------------------------------------------------------


def test_a_lost_guest_ends_without_a_word_and_a_crashed_one_with_one() -> None:
    async def story(world: World) -> None:
        heard: list[HypervisorEvent] = []
        world.port().subscribe(heard.append)
        port = world.port()
        port.subscribe(heard.append)
        await world.do("guest web-1 crash")  # does not run yet: nothing happens
        await world.start_web()
        await world.do("guest web-1 lost")
        assert (world.executing(), heard) == (0, [])
        await world.start_web(run=2)
        await world.do("guest web-1 crash")
        assert [type(event) for event in heard] == [DomainEnded] * 2

    notes = at_desk(story)
    assert notes.faults == {"V lost": 1, "V crash": 1}
    assert notes.guests == [("n1", "began"), ("n1", "ended")] * 2


def test_a_hung_guest_does_not_hear_its_power_button() -> None:
    async def story(world: World) -> None:
        await world.start_web()
        await world.do("guest web-1 hang")
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await world.port().stop(WEB, epoch=1, grace_s=7.0)
        assert loop.time() - began_s == pytest.approx(7.0)

    at_desk(story)


def test_demands_on_starts_are_met_on_any_node_and_counted_when_they_are() -> None:
    async def story(world: World) -> None:
        await world.do("guest web-1 refuse-start 2")
        await world.do("guest web-1 die-early")
        assert world.notes.faults == {}
        for node in ("n1", "n2"):
            with pytest.raises(StartError):
                await world.start_web(node)
        await world.start_web("n2")
        assert world.executing("n2") == 1
        await asyncio.sleep(1.5)
        assert world.executing("n2") == 0
        await world.start_web("n2", run=2)
        await asyncio.sleep(5)
        assert world.executing("n2") == 1

    assert at_desk(story).faults == {"V refuse-start": 2, "V die-early": 1}


# -- what everybody shares -----------------------------------------------------------------------


def test_the_broker_dies_hangs_and_comes_back_with_its_disk() -> None:
    async def story(world: World) -> None:
        def listening() -> tuple[bool, bool]:
            broker = world.cluster._kernel.state.listening
            return broker is not None, broker is not None and broker.alarmed

        seen = []
        for state in ("off", "off", "on", "alarm", "alarm", "on"):
            await world.do(f"broker {state}")
            seen.append(listening())
        away, well, alarmed = (False, False), (True, False), (True, True)
        assert seen == [away, away, well, alarmed, alarmed, well]

    assert at_desk(story).faults == {"B off": 1, "B alarm": 1}


def test_a_cut_is_of_one_way_or_of_all_and_of_one_direction_or_both() -> None:
    async def story(world: World) -> None:
        network, link = world.cluster._network, world.cluster._kernel.link("n1")
        await world.do("network n1 off from broker out")
        assert (link.outward, link.inward) == (False, True)
        await world.do("network n1 off")
        assert (link.outward, link.inward) == (False, False)
        await world.do("network n1 on from broker in")
        assert (link.outward, link.inward) == (False, True)
        assert not network.whole("n1", "storage")
        await world.do("network n1 on")
        assert link.up
        assert network.whole("n1", "storage")
        await world.do("network monitor-2 off from database")
        assert network.passes("monitor-2", "database") == (False, False)
        assert network.whole("monitor-1", "database")
        await world.do("network monitor off")
        assert not any(network.whole(f"monitor-{n}", "broker") for n in (1, 2, 3))

    assert at_desk(story).faults == {"W out": 1, "W off": 5}


def test_clocks_of_all_replicas_or_of_one() -> None:
    async def story(world: World) -> None:
        kernel = world.cluster._kernel
        before = kernel.clock("monitor-1").now()
        await world.do("clock monitor jump -60")
        await world.do("clock monitor-3 jump 100")
        jumped = [kernel.clock(f"monitor-{n}").now() - before for n in (1, 2, 3)]
        assert jumped == [timedelta(seconds=s) for s in (-60, -60, 40)]
        await world.do("clock scheduler-2 rate 1")
        await asyncio.sleep(100)
        assert kernel.loop.time_of(("scheduler-2", 1)) == pytest.approx(101.0)
        assert kernel.loop.time_of(("scheduler-1", 1)) == pytest.approx(100.0)

    assert at_desk(story).faults == {"M jump": 4, "S rate": 1}
