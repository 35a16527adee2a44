"""A node dies: what the monitors do, and what they do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from evac_common.bus.embedded import EmbeddedBroker
from evac_common.store import nodes
from evac_monitor.adapters.power_simulated import Fault
from tests.seeds import first_is_quick
from tests.unit.monitor.world import World, uuid_of

Simulate = Callable[..., Any]


def test_a_silent_node_is_suspected_cut_off_and_proven_dead_exactly_once(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        died_s = world.clock.monotonic()

        n1.hang()
        await world.reach("n1", "fenced")

        assert world.clock.monotonic() - died_s < 27
        assert await world.history("n1") == ["joining", "up", "suspect", "fencing", "fenced"]
        assert not n1.on
        assert n1.bmc is not None
        assert " ".join(n1.bmc.calls) == "identity power_state power_off power_state power_state"
        await asyncio.sleep(60)
        (down,) = await world.events("node.down")
        assert (down["node"], down["incarnation"], down["proof"]) == ("n1", 1, "power")
        assert await world.proofs() == [("n1", 1, "power")]
        (attempt,) = await world.table(nodes.fence_attempt)
        assert (attempt["number"], attempt["state"]) == (1, "proven")
        (proof,) = await world.table(nodes.proof_node)
        first, second = proof["evidence"]["readings"]
        assert (first["state"], second["state"]) == ("off", "off")
        assert await world.history("n2") == ["joining", "up"]

    simulate(story)


def test_the_decision_is_stored_with_every_gate(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")

        n1.hang()
        await world.reach("n1", "fenced")

        row = await world.row("n1")
        assert row is not None
        assert [answer["gate"] for answer in row["decision"]] == [
            "own_health",
            "hold_off",
            "recovering",
            "second_channel",
            "peers",
            "blast_radius",
            "rate",
            "disarmed",
            "storm",
        ]
        assert all(answer["open"] for answer in row["decision"])
        assert row["heard_at"] is not None

    simulate(story)


@pytest.mark.slow
def test_a_lying_bmc_blocks_the_node_and_alarms_until_it_tells_the_truth(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        assert n1.bmc is not None
        n1.bmc.fault = Fault.LIES

        n1.hang()
        await world.reach("n1", "blocked")

        assert n1.on
        assert await world.proofs() == []
        tries = await world.table(nodes.fence_attempt)
        assert [(row["number"], row["state"]) for row in tries] == [
            (1, "failed"),
            (2, "failed"),
            (3, "failed"),
        ]
        assert "though the order to power off was accepted" in tries[0]["detail"]
        await asyncio.sleep(650)
        assert len(await world.events("node.blocked")) == 3

        n1.bmc.fault = Fault.NONE
        await world.reach("n1", "fenced")
        assert await world.proofs() == [("n1", 1, "power")]
        assert len(await world.events("node.down")) == 1

    simulate(story)


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        (Fault.UNREACHABLE, "did not answer"),
        (Fault.SLOW, "did not answer"),
        (Fault.WRONG_PASSWORD, "refused user or password"),
    ],
)
def test_a_broken_bmc_blocks_within_three_tries(
    simulate: Simulate, fault: Fault, detail: str
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        assert n1.bmc is not None
        n1.bmc.fault = fault

        n1.hang()
        await world.reach("n1", "fencing")
        await world.reach("n1", "blocked", within_s=34)

        row = await world.row("n1")
        assert row is not None
        assert detail in row["reason"]
        assert n1.on

    simulate(story)


def test_the_bmc_of_another_machine_is_not_believed_and_not_used(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        assert n1.bmc is not None
        n1.bmc.system_uuid = uuid_of("another")

        n1.hang()
        await world.reach("n1", "blocked")

        assert n1.on
        row = await world.row("n1")
        assert row is not None
        assert "belongs to system" in row["reason"]

    simulate(story)


def test_a_node_without_a_bmc_waits_for_a_person(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3", bmc=False)

        n1.hang()
        await world.reach("n1", "blocked")
        assert len(await world.events("node.blocked")) == 1
        wish = await world.wish("n1", "confirm_down", "I pulled the plug")
        await world.reach("n1", "fenced")

        assert await world.proofs() == [("n1", 1, "operator")]
        (down,) = await world.events("node.down")
        assert "alice vouches: I pulled the plug" in down["evidence"]
        assert await world.outcome(wish) == (
            "succeeded",
            "the node is fenced: alice vouches: I pulled the plug",
        )

    simulate(story)


def test_a_short_silence_changes_nothing_for_good(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")

        n1.link.cut()
        await world.reach("n1", "suspect")
        n1.link.heal()
        await world.reach("n1", "up")

        assert await world.events("node.fencing") == []
        assert n1.on

    simulate(story)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_broker_that_is_away_for_an_hour_costs_no_node_its_life(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        made = await world.in_service("n1", "n2", "n3")
        world.broker.stop()
        await asyncio.sleep(3600)
        world.broker = EmbeddedBroker(world.state)
        await asyncio.sleep(300)

        assert await world.events("node.suspect", "node.fencing") == []
        assert [await world.state_of(node.name) for node in made] == ["up", "up", "up"]

        made[0].hang()
        await world.reach("n1", "fenced")

    simulate(story)


def test_a_node_that_dies_while_the_broker_is_away_is_judged_anew_after_the_hold_off(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        world.broker.stop()
        n1.hang()
        await asyncio.sleep(60)
        assert await world.events("node.suspect") == []

        world.broker = EmbeddedBroker(world.state)
        back_s = world.clock.monotonic()
        await world.reach("n1", "fenced")

        assert world.clock.monotonic() - back_s > 60
        (held,) = await world.events("node.fencing_held")
        assert held["gate"] == "hold_off"
        assert "the broker connection was lost and came back" in held["why"]

    simulate(story)


@pytest.mark.parametrize("seed", first_is_quick(range(6)))
def test_a_monitor_that_was_asleep_blames_nobody_for_the_silence(
    simulate: Simulate, seed: int
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")

        world.loop.advance(30)  # nothing ran: neither the monitor nor what it would have heard
        n1.hang()
        woke_s = world.clock.monotonic()
        await world.reach("n1", "fenced")

        assert world.clock.monotonic() - woke_s > 60
        assert {event["node"] for event in await world.events("node.suspect")} == {"n1"}
        (held,) = await world.events("node.fencing_held")
        assert "this monitor stalled for" in held["why"]

    simulate(story, seed=seed)


def test_two_deaths_are_cut_off_at_the_rate(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        made = await world.in_service(*(f"n{number}" for number in range(1, 7)))
        made[0].hang()
        made[1].hang()
        for node in made[:2]:
            await world.reach(node.name, "fenced")

        attempts = await world.table(nodes.fence_attempt)
        first, second = sorted(row["started_at"] for row in attempts)
        assert (second - first).total_seconds() >= 10

    simulate(story)


def test_while_disarmed_nothing_is_cut_off_and_arming_goes_on(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        disarm = await world.cluster_wish("disarm", for_s=3600)
        await asyncio.sleep(10)
        assert (await world.outcome(disarm) or ("", ""))[0] == "succeeded"

        n1.hang()
        await asyncio.sleep(120)
        assert await world.state_of("n1") == "suspect"
        row = await world.row("n1")
        assert row is not None
        assert [answer["gate"] for answer in row["decision"] if not answer["open"]] == ["disarmed"]

        await world.cluster_wish("arm")
        await world.reach("n1", "fenced")
        assert len(await world.events("cluster.disarmed")) == 1
        assert len(await world.events("cluster.armed")) == 1

    simulate(story)


def test_a_disarm_ends_by_itself(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        await world.cluster_wish("disarm", for_s=100)
        n1.hang()

        await world.reach("n1", "fenced", within_s=140)

    simulate(story)


def test_bad_disarm_arguments_fail_the_wish_and_change_nothing(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        await world.in_service("n1")
        wishes = [
            await world.cluster_wish("disarm"),
            await world.cluster_wish("disarm", for_s=-5),
            await world.cluster_wish("disarm", for_s="soon"),
        ]
        await asyncio.sleep(10)

        for wish in wishes:
            assert (await world.outcome(wish) or ("", ""))[0] == "failed"
        assert await world.events("cluster.disarmed") == []

    simulate(story)


@pytest.mark.slow
@pytest.mark.parametrize("seed", first_is_quick(range(5)))
def test_any_number_of_monitors_prove_a_death_once(simulate: Simulate, seed: int) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")

        n1.hang()
        await world.reach("n1", "fenced")
        await asyncio.sleep(60)

        assert await world.history("n1") == ["joining", "up", "suspect", "fencing", "fenced"]
        for name in ("node.suspect", "node.fencing", "node.down", "node.registered"):
            found = [event for event in await world.events(name) if event["node"] == "n1"]
            assert len(found) == 1, name
        attempts = await world.table(nodes.fence_attempt)
        assert [row["state"] for row in attempts] == ["proven"]
        assert n1.bmc is not None
        assert n1.bmc.calls.count("power_off") == 1

    simulate(story, seed=seed, monitors=("m1", "m2", "m3"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", first_is_quick(range(4)))
def test_two_monitors_do_not_cut_off_two_nodes_at_once(simulate: Simulate, seed: int) -> None:
    async def story(world: World) -> None:
        made = await world.in_service(*(f"n{number}" for number in range(1, 7)))
        made[0].hang()
        made[1].hang()
        for node in made[:2]:
            await world.reach(node.name, "fenced")

        started = sorted(row["started_at"] for row in await world.table(nodes.fence_attempt))
        assert len(started) == 2
        assert (started[1] - started[0]).total_seconds() >= 10

    simulate(story, seed=seed, monitors=("m1", "m2"))


@pytest.mark.parametrize("after_s", first_is_quick([0.5, 0.0, 0.05, 0.15, 0.3, 1.0, 1.5, 2.5]))
def test_a_monitor_that_dies_in_the_middle_of_a_fencing_is_followed_by_the_next(
    simulate: Simulate, after_s: float
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        n1.hang()
        await world.reach("n1", "fencing")
        await asyncio.sleep(after_s)

        world.kill_monitor()
        await asyncio.sleep(5)
        world.ends.clear()
        world.start_monitor()
        await world.reach("n1", "fenced", within_s=60)
        await asyncio.sleep(90)

        assert len(await world.events("node.down")) == 1
        assert await world.proofs() == [("n1", 1, "power")]
        assert len(await world.events("node.fencing")) == 1
        assert not n1.on

    simulate(story)


@pytest.mark.parametrize("killed", ["m1", "m2"])
@pytest.mark.parametrize("sweep_s", [2, 4.7])
def test_a_monitor_that_judges_nobody_goes_on_with_anothers_fencing(
    simulate: Simulate, killed: str, sweep_s: float
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        await asyncio.sleep(60)
        await world.wish("n1", "fence")  # its heartbeats arrive: there is no silence to judge
        await world.reach("n1", "fencing")
        await asyncio.sleep(0.6)

        world.kill_monitor(killed)
        await world.reach("n1", "fenced", within_s=60)

        assert await world.proofs() == [("n1", 1, "power")]
        assert not n1.on

    simulate(story, monitors=("m1", "m2"), sweep_s=sweep_s)


def test_a_restarted_monitor_holds_off(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        world.kill_monitor()
        n1.hang()
        await asyncio.sleep(30)
        world.ends.clear()
        world.start_monitor()

        await asyncio.sleep(55)
        assert await world.state_of("n1") == "suspect"
        held = await world.events("node.fencing_held")
        assert [event["gate"] for event in held] == ["hold_off"]
        await world.reach("n1", "fenced")

    simulate(story)


def test_the_same_seed_gives_the_same_history(simulate: Simulate) -> None:
    async def story(world: World) -> list[Any]:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        n1.hang()
        await world.reach("n1", "fenced")
        return [world.loop.digest(), await world.events()]

    first, second = simulate(story, seed=7), simulate(story, seed=7)

    assert first == second
