"""A node registers: in every state, with every claim about itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from evac_common.messages.reports import DomainSeen
from evac_common.store import nodes
from evac_monitor.adapters.power_simulated import Fault
from tests.unit.monitor.world import World, id_of

Simulate = Callable[..., Any]


async def assign(
    world: World, instance: str, epoch: int, node: str, incarnation: int, proof: str | None = None
) -> None:
    """A row of the ledger, as the scheduler writes it."""
    await world.sql(
        "INSERT INTO ownership (instance_id, epoch, node_id, term, incarnation, run,"
        " proof_node_id, created_at)"
        " VALUES (:instance, :epoch, :node, 1, :incarnation, 1, :proof, :at)",
        instance=id_of(instance),
        epoch=epoch,
        node=id_of(node),
        incarnation=incarnation,
        proof=proof,
        at="2026-01-01 00:00:00.000000",
    )


def domain(instance: str, epoch: int) -> DomainSeen:
    return DomainSeen(instance_id=id_of(instance), epoch=epoch, run=1, running=True)


def test_an_enrolled_node_becomes_new_and_its_first_registration_brings_it_up(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        n1 = await world.enrol("n1")
        await world.reach("n1", "new")

        n1.start()
        await world.reach("n1", "up")

        (session,) = n1.sessions
        assert (session.term, session.incarnation) == (1, 1)
        assert await world.proofs() == []
        (facts,) = await world.table(nodes.node_facts)
        assert facts["hostname"] == "n1"
        assert [event["name"] for event in await world.events("node.registered", "node.up")] == [
            "node.registered",
            "node.up",
        ]

    simulate(story)


def test_a_node_that_is_not_enrolled_is_ignored(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1 = await world.enrol("n1")
        await world.sql("DELETE FROM node_spec")
        await world.sql("DELETE FROM node_state")
        n1.start()
        await asyncio.sleep(30)

        assert await world.row("n1") is None
        assert n1.sessions == []

    simulate(story)


def test_another_dmi_uuid_is_refused_and_said_once(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1 = await world.enrol("n1")
        n1.dmi_uuid = "ffffffff-0000-0000-0000-000000000000"
        n1.start()
        await asyncio.sleep(60)

        assert await world.state_of("n1") == "new"
        assert n1.sessions == []
        (refused,) = await world.events("node.refused")
        assert "is not the enrolled" in refused["why"]

    simulate(story)


def test_the_first_dmi_uuid_seen_is_the_enrolled_one_when_none_was_given(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        n1 = await world.enrol("n1")
        await world.set_enrolment("n1", dmi_uuid=None)
        n1.start()
        await world.reach("n1", "up")

        n1.dmi_uuid = "ffffffff-0000-0000-0000-000000000000"
        n1.boot()
        await asyncio.sleep(20)

        assert len(await world.events("node.refused")) == 1
        assert len(n1.sessions) == 1

    simulate(story)


def test_a_lower_incarnation_is_refused_and_proves_nothing(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        (n1,) = await world.in_service("n1")
        n1.boot()
        await asyncio.sleep(12)
        n1.hang()
        n1.incarnation = 1
        n1.start()
        await asyncio.sleep(12)

        assert len(n1.sessions) == 2
        (refused,) = await world.events("node.refused")
        assert refused["why"] == "incarnation 1 is lower than the recorded 2"
        assert await world.proofs() == [("n1", 1, "incarnation")]

    simulate(story)


def test_a_quick_reboot_is_a_proof_and_no_death(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        (n1,) = await world.in_service("n1")

        n1.boot()
        await asyncio.sleep(10)

        assert await world.state_of("n1") == "up"
        (rebooted,) = await world.events("node.rebooted")
        assert (rebooted["previous_incarnation"], rebooted["incarnation"]) == (1, 2)
        assert await world.events("node.down") == []
        assert await world.proofs() == [("n1", 1, "incarnation")]

    simulate(story)


def test_a_restarted_daemon_gets_its_session_again(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        (n1,) = await world.in_service("n1")
        await assign(world, "web", 1, "n1", 1)
        n1.domains = [domain("web", 1)]

        n1.hang()
        n1.start()
        await asyncio.sleep(8)

        assert await world.state_of("n1") == "up"
        assert await world.history("n1") == ["joining", "up", "joining", "up"]
        assert n1.sessions[-1].allowed == {id_of("web"): 1}
        assert await world.proofs() == []

    simulate(story)


def test_while_it_is_joining_the_same_session_is_sent_again(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1 = await world.enrol("n1")
        n1.deaf = True
        n1.start()
        await asyncio.sleep(31)
        ids = {session.command_id for session in n1.sessions}
        assert len(n1.sessions) >= 5
        assert len(ids) == 1
        assert len(await world.events("node.registered")) == 1

        await assign(world, "web", 1, "n1", 1)
        await asyncio.sleep(6)
        assert n1.sessions[-1].allowed == {id_of("web"): 1}
        assert n1.sessions[-1].command_id not in ids

        n1.deaf = False
        await world.reach("n1", "up")

    simulate(story)


def test_what_the_ledger_gave_to_others_is_superseded(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, n2, n3 = await world.in_service("n1", "n2", "n3")
        await assign(world, "web", 1, "n1", 1)
        await assign(world, "mail", 1, "n1", 1)
        n1.link.cut()
        await world.reach("n1", "fenced")
        (proof,) = await world.table(nodes.proof_node)
        await assign(world, "web", 2, "n2", 1, proof["id"])

        n1.link.heal()
        n1.domains = [domain("web", 1), domain("stranger", 1)]
        n1.on = True
        n1.incarnation = 2
        n1.start()
        await world.reach("n1", "up")

        session = n1.sessions[-1]
        assert session.allowed == {}
        assert session.superseded == {id_of("web"): 1}
        assert not session.proven_dead
        assert (n2.on, n3.on) == (True, True)

    simulate(story)


@pytest.mark.parametrize("state", ["fencing", "blocked"])
def test_the_same_incarnation_gets_nothing_while_it_is_being_cut_off(
    simulate: Simulate, state: str
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        assert n1.bmc is not None
        n1.bmc.fault = Fault.LIES
        n1.hang()
        await world.reach("n1", state)
        sessions = len(n1.sessions)

        n1.start()
        await asyncio.sleep(15)

        assert len(n1.sessions) == sessions
        assert await world.state_of("n1") in {"fencing", "blocked"}

    simulate(story)


def test_a_node_that_comes_back_during_a_slow_try_is_not_switched_off(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        assert n1.bmc is not None
        n1.bmc.fault, n1.bmc.delay_s = Fault.SLOW, 3.0
        await world.wish("n1", "fence")
        await world.reach("n1", "fencing")
        await asyncio.sleep(1)  # the try waits for the slow BMC

        n1.boot()
        await world.reach("n1", "up")
        await asyncio.sleep(60)

        assert n1.on
        assert await world.state_of("n1") == "up"

    simulate(story)


@pytest.mark.parametrize("state", ["fencing", "blocked"])
def test_a_reboot_while_it_is_being_cut_off_settles_the_matter(
    simulate: Simulate, state: str
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        assert n1.bmc is not None
        n1.bmc.fault = Fault.LIES
        wish = await world.wish("n1", "fence")
        await world.reach("n1", state)

        n1.boot()
        await world.reach("n1", "up")
        await asyncio.sleep(60)

        assert await world.state_of("n1") == "up"
        assert n1.on
        assert await world.proofs() == [("n1", 1, "incarnation")]
        assert await world.events("node.down") == []
        assert len(await world.events("node.rebooted")) == 1
        running = [
            row for row in await world.table(nodes.fence_attempt) if row["state"] == "running"
        ]
        assert running == []
        result, _ = await world.outcome(wish) or ("", "")
        assert result == ("succeeded" if state == "fencing" else "failed")

    simulate(story)


def test_an_incarnation_that_was_proven_dead_and_speaks_alarms_once_and_starts_over(
    simulate: Simulate,
) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3", bmc=False)
        await assign(world, "web", 1, "n1", 1)
        n1.domains = [domain("web", 1), domain("stranger", 1)]
        n1.hang()
        await world.reach("n1", "blocked")
        await world.wish("n1", "confirm_down", "I thought it was off")
        await world.reach("n1", "fenced")

        n1.start()
        await asyncio.sleep(30)
        assert await world.state_of("n1") == "fenced"
        assert len(await world.events("node.fenced_alive")) == 1
        session = next(session for session in n1.sessions if session.proven_dead)
        assert session.allowed == {}
        assert session.superseded == {id_of("web"): 1}
        assert [seen.instance_id for seen in n1.domains] == [id_of("stranger")]

        n1.domains = []
        await world.reach("n1", "up")
        assert n1.incarnation == 2
        assert len(await world.events("node.fenced_alive")) == 1
        assert await world.events("node.rebooted") == []

    simulate(story)


def test_fence_skips_detection_and_succeeds_with_the_proof(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        began_s = world.clock.monotonic()

        wish = await world.wish("n1", "fence", "it smokes")
        await world.reach("n1", "fenced")

        assert world.clock.monotonic() - began_s < 10
        assert not n1.on
        assert await world.history("n1") == ["joining", "up", "fencing", "fenced"]
        result, reason = await world.outcome(wish) or ("", "")
        assert result == "succeeded"
        assert "power read off twice" in reason
        row = await world.row("n1")
        assert row is not None
        assert row["decision"][0]["why"] == "fence by alice: it smokes"
        assert len(await world.events("node.down")) == 1

    simulate(story)


def test_fence_without_a_method_fails_and_names_confirm_down(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        await world.in_service("n1", "n2", "n3", bmc=False)

        wish = await world.wish("n1", "fence")
        await world.reach("n1", "blocked")

        result, reason = await world.outcome(wish) or ("", "")
        assert result == "failed"
        assert "confirm-down" in reason

    simulate(story)


def test_fence_works_while_disarmed(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        await world.in_service("n1", "n2", "n3")
        await world.cluster_wish("disarm", for_s=3600)
        await world.wish("n1", "fence")

        await world.reach("n1", "fenced")

    simulate(story)


def test_confirm_down_is_refused_while_its_heartbeats_arrive(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3", bmc=False)
        await world.wish("n1", "fence")
        await world.reach("n1", "blocked")

        wish = await world.wish("n1", "confirm_down", "it is surely off")
        await asyncio.sleep(10)

        result, reason = await world.outcome(wish) or ("", "")
        assert result == "failed"
        assert "its heartbeats arrive" in reason
        assert await world.state_of("n1") == "blocked"
        assert await world.proofs() == []
        assert n1.on

    simulate(story)


def test_confirm_down_of_a_node_in_service_or_unknown_fails(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        await world.in_service("n1")
        up = await world.wish("n1", "confirm_down")
        unknown = await world.wish("nobody", "fence")
        await asyncio.sleep(10)

        assert (await world.outcome(up) or ("", ""))[0] == "failed"
        assert (await world.outcome(unknown) or ("", ""))[0] == "failed"

    simulate(story)


def test_a_wish_is_answered_once_by_any_number_of_monitors(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        wish = await world.wish("n1", "fence")
        await world.reach("n1", "fenced")
        await asyncio.sleep(20)

        outcomes = await world.table(nodes.monitor_wish_outcome)
        assert [row["wish_id"] for row in outcomes] == [wish]
        assert n1.bmc is not None
        assert n1.bmc.calls.count("power_off") == 1

    simulate(story, monitors=("m1", "m2"))


def test_a_forgotten_node_goes_when_it_owns_nothing(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        n1, *_ = await world.in_service("n1", "n2", "n3")
        await assign(world, "web", 1, "n1", 1)
        n1.hang()
        await world.reach("n1", "fenced")
        await world.sql("DELETE FROM node_spec WHERE name = 'n1'")
        await asyncio.sleep(15)
        assert await world.state_of("n1") == "fenced"

        (proof,) = await world.table(nodes.proof_node)
        await assign(world, "web", 2, "n2", 1, proof["id"])
        await asyncio.sleep(15)

        assert await world.row("n1") is None
        assert len(await world.proofs()) == 1
        assert await world.state_of("n2") == "up"

    simulate(story)


def test_a_node_in_service_is_never_forgotten_by_the_sweep(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        await world.in_service("n1")
        await world.sql("DELETE FROM node_spec")
        await asyncio.sleep(30)

        assert await world.state_of("n1") == "up"

    simulate(story)


def test_a_node_whose_word_that_the_session_holds_was_lost_comes_up_all_the_same(
    simulate: Simulate,
) -> None:
    """It has its session and asks for none; only another copy of it makes the node say so again."""

    async def story(world: World) -> None:
        n1 = await world.enrol("n1")
        n1.deaf = True
        n1.start()
        await world.reach("n1", "joining")
        await asyncio.sleep(3)
        n1.term, n1.deaf = 1, False

        await world.reach("n1", "up")

        assert len({session.command_id for session in n1.sessions}) == 1

    simulate(story)
