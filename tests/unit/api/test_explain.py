"""`explain`: the chain from the last heartbeat to running, and where it stops if it stops."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from evac_api.core.explain import Owned, Proof, proof_step
from evac_common.messages import events
from evac_common.model.states import NodeState, Phase, ProofKind
from evac_common.store import nodes, placement
from tests.unit.api.cluster import Cluster, instance, moment

DAWN = datetime(2026, 1, 1, tzinfo=UTC)
OPEN = {"gate": "hold_off", "open": True, "why": "steady for 300 s"}
REFUSED = {"node": "n1", "verdict": "refused", "why": "state fenced, not up"}
CHOSEN = {"node": "n2", "verdict": "chosen", "why": "most memory left"}


async def explain(cluster: Cluster, name: str = "web-1") -> dict[str, Any]:
    found: dict[str, Any] = await cluster.ok("GET", f"/v1/instances/{name}/explain")
    return found


def kinds(found: dict[str, Any]) -> list[str]:
    return [step["kind"] for step in found["steps"]]


def step(found: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(one for one in found["steps"] if one["kind"] == kind)


@pytest.fixture
async def running(cluster: Cluster) -> Cluster:
    """web-1 runs on n1; n2 is up."""
    await cluster.enrol("n1", "n2")
    for name in ("n1", "n2"):
        await cluster.is_in_state(name, NodeState.UP)
    await cluster.ok("POST", "/v1/instances", json={"name": "web-1", **instance()})
    await cluster.owns("n1", "web-1")
    await cluster.seen("web-1", Phase.RUNNING, "n1", candidates=[CHOSEN | {"node": "n1"}])
    return cluster


async def fell_silent(cluster: Cluster) -> None:
    async with cluster.others.transaction() as tx:
        await tx.emit(
            events.NodeSuspect(
                node_id=cluster.ids["n1"], node="n1", silent_s=8.0, why="silent for 8.0 s"
            )
        )


async def was_fenced(cluster: Cluster) -> str:
    """What the monitor writes while it cuts a node off."""
    node_id = cluster.ids["n1"]
    await cluster.is_in_state("n1", NodeState.FENCED, decision=[OPEN])
    async with cluster.others.transaction() as tx:
        await tx.emit(
            events.NodeFencing(node_id=node_id, node="n1", incarnation=1, why="silent for 20 s")
        )
        await tx.execute(
            insert(nodes.fence_attempt).values(
                id=tx.clock.new_id(),
                node_id=node_id,
                incarnation=1,
                method="power",
                number=1,
                state="proven",
                detail="Off read twice",
                monitor="m1",
                started_at=tx.now,
                finished_at=tx.now,
            )
        )
    return await cluster.proven_dead("n1")


async def has_item(cluster: Cluster, proof: str, state: str, **values: Any) -> None:
    async with cluster.others.transaction() as tx:
        evacuation_id = tx.clock.new_id()
        await tx.execute(
            insert(placement.evacuation).values(
                id=evacuation_id,
                node_id=cluster.ids["n1"],
                incarnation=1,
                proof_id=proof,
                state="open",
                created_at=tx.now,
            )
        )
        await tx.execute(
            insert(placement.evacuation_item).values(
                **{
                    "evacuation_id": evacuation_id,
                    "instance_id": await cluster.instance_id("web-1"),
                    "source_epoch": 1,
                    "state": state,
                    "attempts": 0,
                    "reason": "",
                    "candidates": [],
                    "created_at": tx.now,
                    "updated_at": tx.now,
                    **values,
                }
            )
        )


async def test_the_whole_chain_of_an_evacuated_instance(running: Cluster) -> None:
    await fell_silent(running)
    proof = await was_fenced(running)
    async with running.others.transaction() as tx:
        await tx.emit(
            events.NodeDown(
                node_id=running.ids["n1"],
                node="n1",
                incarnation=1,
                proof=ProofKind.POWER,
                evidence="Off read twice",
            )
        )
    await has_item(
        running, proof, "done", target_node_id=running.ids["n2"], candidates=[REFUSED, CHOSEN]
    )
    await running.owns("n2", "web-1", epoch=2, proof=proof)
    instance_id = await running.instance_id("web-1")
    about: dict[str, Any] = {"instance_id": instance_id, "instance": "web-1", "epoch": 2}
    on_n2: dict[str, Any] = {**about, "node_id": running.ids["n2"], "node": "n2", "run": 1}
    async with running.others.transaction() as tx:
        await tx.emit(events.InstancePlaced(**on_n2))
        await tx.emit(events.InstanceStarted(**on_n2))
        await tx.emit(events.InstanceEvacuated(**about, from_node="n1", to_node="n2", took_s=2.0))
    await running.seen("web-1", Phase.RUNNING, "n2", epoch=2)

    found = await explain(running)

    assert kinds(found) == [
        "intent",
        "last_heartbeat",
        "suspect",
        "gate",
        "power",
        "proof",
        "evacuation",
        "candidates",
        "placed",
        "command",
        "started",
        "evacuated",
        "running",
    ]
    assert (found["summary"], found["running"]) == ("web-1: running on n2", True)
    assert step(found, "gate")["detail"]["gates"] == [OPEN]
    assert step(found, "proof")["why"] == "power: read Off twice"
    assert step(found, "candidates")["why"] == "n1 refused: state fenced, not up"
    assert step(found, "placed")["why"] == "allowed by the proof `power`"
    times = [one["at"] for one in found["steps"] if one["at"]]
    assert times[2:] == sorted(times[2:])


async def test_the_last_heartbeat_is_counted_back_from_the_suspicion(running: Cluster) -> None:
    await fell_silent(running)
    await running.is_in_state("n1", NodeState.SUSPECT)

    found = await explain(running)

    suspected = step(found, "suspect")
    heard = step(found, "last_heartbeat")
    assert moment(suspected["at"]) - moment(heard["at"]) == timedelta(seconds=8)


async def test_a_shut_gate_is_named_with_what_would_help(running: Cluster) -> None:
    await fell_silent(running)
    shut = {"gate": "storm", "open": False, "why": "3 of 4 nodes are silent"}
    await running.is_in_state("n1", NodeState.SUSPECT, decision=[OPEN, shut])

    found = await explain(running)

    assert found["running"] is False
    assert found["summary"] == (
        "web-1: unknown (last seen running on n1 0 s ago). n1 is silent, but gate storm is shut: "
        "3 of 4 nodes are silent. `evac cluster storm show`, then `evac cluster storm release`."
    )
    assert step(found, "gate")["what"] == "gates shut: storm"


async def test_a_blocked_node_needs_a_person(running: Cluster) -> None:
    await fell_silent(running)
    await running.is_in_state("n1", NodeState.BLOCKED, reason="3 power tries failed")
    async with running.others.transaction() as tx:
        await tx.emit(
            events.NodeBlocked(
                node_id=running.ids["n1"], node="n1", incarnation=1, why="3 power tries failed"
            )
        )

    found = await explain(running)

    assert "Nothing proves n1 dead (3 power tries failed)" in found["summary"]
    assert "`evac node confirm-down n1`" in found["summary"]
    assert step(found, "blocked")["why"] == "3 power tries failed"


async def test_an_open_item_says_who_refused_and_why(running: Cluster) -> None:
    await fell_silent(running)
    proof = await was_fenced(running)
    full = {"node": "n2", "verdict": "refused", "why": "memory: 1024 of 2048 MiB free"}
    await has_item(running, proof, "pending", reason="no node fits", candidates=[REFUSED, full])

    found = await explain(running)

    assert "not running: n1 is proven dead" in found["summary"]
    assert "It waits: no node fits." in found["summary"]
    assert "n2: memory: 1024 of 2048 MiB free" in found["summary"]
    assert kinds(found)[-3:] == ["proof", "evacuation", "candidates"]
    assert found["steps"][-1]["what"] == "no node could take it"


async def test_local_storage_is_told_as_the_reason(running: Cluster) -> None:
    proof = await was_fenced(running)
    await has_item(running, proof, "pending", reason="local_storage: pool disk0 is only on n1")

    found = await explain(running)

    assert "It waits: local_storage: pool disk0 is only on n1." in found["summary"]


async def test_an_instance_that_was_never_placed_tells_who_refused_it(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.ok("POST", "/v1/instances", json={"name": "web-1", **instance()})
    before = await explain(cluster)
    await cluster.seen("web-1", Phase.PENDING, reason="no node fits", candidates=[REFUSED])
    after = await explain(cluster)

    assert kinds(before) == ["intent", "waiting"]
    assert kinds(after) == ["intent", "candidates"]
    assert after["summary"] == (
        "web-1: pending: no node fits. It waits: no node fits. Refused by n1: state fenced, not up."
    )


async def test_a_halted_instance_says_who_stopped_it(running: Cluster) -> None:
    await running.ok("POST", "/v1/instances/web-1/stop", json={"reason": "no budget"})
    await running.released("n1", "web-1")
    await running.seen("web-1", Phase.STOPPED, "n1")

    found = await explain(running)

    assert found["summary"] == "web-1: stopped"
    first = found["steps"][0]
    assert (first["what"], first["why"]) == ("it should not run", "no budget (tester)")
    assert step(found, "proof")["what"] == "n1 released epoch 1"


async def test_the_intent_is_as_old_as_the_word_that_still_holds(running: Cluster) -> None:
    created = (await explain(running))["steps"][0]
    await running.ok("PUT", "/v1/instances/web-1", json=instance(vcpus=4))
    changed = (await explain(running))["steps"][0]
    await running.ok("POST", "/v1/instances/web-1/stop")
    await running.ok("POST", "/v1/instances/web-1/start", json={"reason": "needed again"})
    started = (await explain(running))["steps"][0]

    assert created == changed
    assert started["why"] == "needed again (tester)"


async def test_an_unanswered_command_is_shown_with_how_often_it_was_sent(
    running: Cluster,
) -> None:
    await running.seen("web-1", Phase.STARTING, "n1", reason="run 2")
    async with running.others.transaction() as tx:
        await tx.execute(
            insert(placement.command).values(
                id=tx.clock.new_id(),
                node_id=running.ids["n1"],
                instance_id=await running.instance_id("web-1"),
                verb="start",
                epoch=1,
                run=2,
                term=1,
                incarnation=1,
                deadline=tx.now + timedelta(seconds=60),
                headers={},
                body=b"",
                sent=3,
                next_at=tx.now,
                created_at=tx.now,
            )
        )

    found = await explain(running)

    command = step(found, "command")
    assert command["what"] == "start (run 2) commanded to n1"
    assert command["why"].startswith("not answered yet, sent 3 times; good until ")


async def test_a_crashing_guest_says_when_it_starts_again(running: Cluster) -> None:
    await running.seen(
        "web-1",
        Phase.EXITED,
        "n1",
        reason="crashed",
        attempts=2,
        next_at=running.store.clock.now() + timedelta(seconds=41),
    )

    found = await explain(running)

    assert found["summary"].startswith("web-1: exited on n1: crashed. It starts again in 4")
    assert "(attempt 3)" in found["summary"]


async def test_an_alarm_about_the_instance_is_part_of_the_answer(running: Cluster) -> None:
    async with running.others.transaction() as tx:
        await tx.emit(
            events.DoubleRunSuspected(
                instance_id=await running.instance_id("web-1"),
                instance="web-1",
                node_id=running.ids["n2"],
                node="n2",
                epoch=1,
            )
        )

    found = await explain(running)

    assert found["steps"][-1]["kind"] == "alarm"
    assert found["steps"][-1]["what"] == "instance.double_run_suspected"


def test_a_proof_by_power_reads_as_a_sentence() -> None:
    owner = Owned(
        epoch=1, node_id="0", node="n1", incarnation=1, run=1, at=DAWN, proof=None, over=None
    )
    readings = [
        {"state": "off", "at": "2026-01-01T00:01:41.912+00:00"},
        {"state": "off", "at": "2026-01-01T00:01:43.040+00:00"},
    ]
    evidence = {"method": "ipmi", "address": "10.0.9.1:623", "attempt": 1, "readings": readings}
    proof = Proof(kind="power", at=DAWN, actor="monitor", evidence=evidence, released=False)

    told = proof_step(owner, proof)

    assert told.what == "n1 is proven dead (incarnation 1)"
    assert told.why == (
        "power: method ipmi, address 10.0.9.1:623, attempt 1, read off at 00:01:41.9 and 00:01:43.0"
    )
    assert told.detail["evidence"] == evidence
