"""Operations settle from what the owners' tables say."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from evac_api.core.operations import (
    Answered,
    Facts,
    InstanceFacts,
    NodeFacts,
    Operation,
    Remains,
    may_be_purged,
    settle,
)
from evac_common.model.states import NodeState, OperationState, Phase, RunStrategy
from evac_common.store import placement
from tests.unit.api.cluster import Cluster, instance

BEGAN = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
ALWAYS, HALTED = RunStrategy.ALWAYS, RunStrategy.HALTED


def wanted(**facts: object) -> InstanceFacts:
    return InstanceFacts(**{"exists": True, "run_strategy": ALWAYS, "node": "n1", **facts})  # type: ignore[arg-type]  # values are checked by the dataclass's users


def unwanted(**facts: object) -> InstanceFacts:
    return wanted(**{"run_strategy": HALTED, **facts})


CASES = [
    ("start", wanted(phase=Phase.RUNNING, node_up=True), "succeeded", "running on n1"),
    ("start", wanted(phase=Phase.RUNNING), "pending", "which is not up"),
    ("start", wanted(phase=Phase.STARTING), "pending", "starting on n1"),
    ("start", wanted(phase=Phase.PENDING, reason="no room"), "pending", "placed: no room"),
    ("start", wanted(phase=None), "pending", "waits to be placed"),
    ("start", wanted(phase=Phase.EXITED), "pending", "ended on n1"),
    ("start", unwanted(phase=Phase.RUNNING, node_up=True), "cancelled", "stopped later"),
    ("start", wanted(deleted=True), "cancelled", "deleted"),
    ("start", InstanceFacts(exists=False), "cancelled", "deleted"),
    ("stop", unwanted(phase=Phase.STOPPED), "succeeded", "stopped"),
    ("stop", unwanted(phase=None), "succeeded", "stopped"),
    ("stop", unwanted(phase=Phase.PENDING), "succeeded", "stopped"),
    ("stop", unwanted(phase=Phase.PENDING, reserved=True), "pending", "n1"),
    ("stop", unwanted(phase=Phase.RUNNING, owned=True, node_up=True), "pending", "stopping on n1"),
    ("stop", unwanted(phase=Phase.RUNNING, owned=True), "pending", "must answer or be proven dead"),
    ("stop", unwanted(phase=Phase.EXITED, owned=True, node_up=True), "pending", "stopping on n1"),
    ("stop", wanted(phase=Phase.RUNNING), "cancelled", "started later"),
    ("stop", InstanceFacts(exists=False), "succeeded", "gone"),
    ("delete", InstanceFacts(exists=False), "succeeded", "deleted"),
    ("delete", unwanted(owned=True, node_up=True), "pending", "stopping on n1"),
    ("delete", unwanted(owned=True), "pending", "must answer or be proven dead"),
    ("delete", unwanted(), "pending", "waits to be removed"),
]


@pytest.mark.parametrize(("verb", "facts", "state", "message"), CASES)
def test_an_instance_operation_settles_by_what_is_seen(
    verb: str, facts: InstanceFacts, state: str, message: str
) -> None:
    operation = Operation(id="o", verb=f"instance.{verb}", created_at=BEGAN)

    outcome = settle(operation, Facts(instance=facts))

    assert outcome.state.value == state
    assert message in outcome.message


NODE_CASES = [
    ("fence", NodeFacts(exists=True, state=NodeState.FENCED, reason="off"), "succeeded"),
    ("fence", NodeFacts(exists=True, state=NodeState.UP, proven_at=BEGAN), "succeeded"),
    (
        "fence",
        NodeFacts(exists=True, state=NodeState.UP, proven_at=BEGAN - timedelta(seconds=1)),
        "pending",
    ),
    ("fence", NodeFacts(exists=True, state=NodeState.BLOCKED), "pending"),
    ("fence", NodeFacts(exists=True), "pending"),
    ("fence", NodeFacts(exists=False), "cancelled"),
    ("confirm_down", NodeFacts(exists=True, state=NodeState.FENCED), "succeeded"),
    ("evacuate", NodeFacts(exists=True, state=NodeState.FENCED), "pending"),
    ("evacuate", NodeFacts(exists=True, state=NodeState.SUSPECT), "pending"),
    ("evacuate", NodeFacts(exists=False), "cancelled"),
]


@pytest.mark.parametrize(("verb", "facts", "state"), NODE_CASES)
def test_a_node_operation_settles_by_the_monitors_rows(
    verb: str, facts: NodeFacts, state: str
) -> None:
    operation = Operation(id="o", verb=f"node.{verb}", created_at=BEGAN)

    assert settle(operation, Facts(node=facts)).state.value == state


@pytest.mark.parametrize("succeeded", [True, False])
def test_the_owners_answer_settles_any_wish(succeeded: bool) -> None:
    operation = Operation(id="o", verb="cluster.disarm", created_at=BEGAN)

    outcome = settle(operation, Facts(answered=Answered(succeeded=succeeded, reason="because")))

    wanted_state = OperationState.SUCCEEDED if succeeded else OperationState.FAILED
    assert (outcome.state, outcome.message) == (wanted_state, "because")


@pytest.mark.parametrize("phase", [*Phase, None])
@pytest.mark.parametrize("owned", [True, False])
@pytest.mark.parametrize("reserved", [True, False])
def test_a_record_goes_only_when_no_copy_can_run(
    phase: Phase | None, owned: bool, reserved: bool
) -> None:
    under_way = phase in (Phase.STARTING, Phase.RUNNING, Phase.STOPPING)

    may = may_be_purged(Remains(owned=owned, reserved=reserved, phase=phase))

    assert may == (not owned and not reserved and not under_way)


async def test_start_and_stop_set_the_intent_and_settle(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", NodeState.UP)
    body = {"name": "web-1", **instance(run_strategy="Halted")}
    await cluster.ok("POST", "/v1/instances", json=body)

    started = await cluster.ok("POST", "/v1/instances/web-1/start", json={"reason": "launch day"})
    await cluster.settle()
    waiting = await cluster.ok("GET", f"/v1/operations/{started['id']}")
    await cluster.owns("n1", "web-1")
    await cluster.seen("web-1", Phase.RUNNING, "n1")
    await cluster.settle()
    done = await cluster.ok("GET", f"/v1/operations/{started['id']}")

    assert (waiting["state"], waiting["message"]) == ("pending", "waits to be placed")
    assert (done["state"], done["message"]) == ("succeeded", "running on n1")
    shown = await cluster.ok("GET", "/v1/instances/web-1")
    assert shown["spec"]["run_strategy"] == "Always"
    names = [event["name"] for event in await cluster.events()]
    assert names[-3:] == ["operation.accepted", "intent.instance", "operation.succeeded"]


async def test_a_later_wish_supersedes_an_earlier_one(cluster: Cluster) -> None:
    await cluster.ok("POST", "/v1/instances", json={"name": "web-1", **instance()})

    started = await cluster.ok("POST", "/v1/instances/web-1/start")
    stopped = await cluster.ok("POST", "/v1/instances/web-1/stop")
    await cluster.settle()

    first = await cluster.ok("GET", f"/v1/operations/{started['id']}")
    second = await cluster.ok("GET", f"/v1/operations/{stopped['id']}")
    assert (first["state"], second["state"]) == ("cancelled", "succeeded")


async def test_waiting_answers_as_soon_as_it_is_settled(cluster: Cluster) -> None:
    operation = await cluster.ok("POST", "/v1/cluster/arm", json={"reason": "work is over"})
    path = f"/v1/operations/{operation['id']}"
    loop = asyncio.get_running_loop()

    short_s = loop.time()
    pending = await cluster.ok("GET", f"{path}?wait=0.2")
    short_s = loop.time() - short_s
    waiting = asyncio.create_task(cluster.ok("GET", f"{path}?wait=5"))
    await cluster.answered(operation["id"], result="succeeded", reason="armed")
    await cluster.settle()
    done = await waiting

    assert (pending["state"], done["state"]) == ("pending", "succeeded")
    assert 0.2 <= short_s < 2


async def test_a_refused_wish_fails_with_the_owners_reason(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", NodeState.SUSPECT)
    body = {"reason": "it is dark", "name": "n1"}
    operation = await cluster.ok("POST", "/v1/nodes/n1/confirm-down", json=body)

    await cluster.answered(operation["id"], result="failed", reason="heartbeats arrive")
    await cluster.settle()

    found = await cluster.ok("GET", f"/v1/operations/{operation['id']}")
    assert (found["state"], found["message"]) == ("failed", "heartbeats arrive")
    failed = await cluster.events("operation.failed")
    assert failed[0]["body"]["message"] == "heartbeats arrive"


async def test_settling_twice_says_it_once(cluster: Cluster) -> None:
    operation = await cluster.ok("POST", "/v1/cluster/arm", json={"reason": "work is over"})
    await cluster.answered(operation["id"], result="succeeded", reason="armed")

    await asyncio.gather(cluster.settle(), cluster.settle())
    await cluster.settle()

    assert len(await cluster.events("operation.succeeded")) == 1


async def test_a_deleted_instance_stays_until_its_owner_let_it_go(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", NodeState.UP)
    await cluster.ok("POST", "/v1/instances", json={"name": "web-1", **instance()})
    await cluster.owns("n1", "web-1")
    await cluster.seen("web-1", Phase.RUNNING, "n1")

    operation = await cluster.ok("DELETE", "/v1/instances/web-1")
    await cluster.settle()
    still = await cluster.ok("GET", "/v1/instances/web-1")
    await cluster.released("n1", "web-1")
    await cluster.seen("web-1", Phase.STOPPED, "n1")
    await cluster.settle()

    assert still["deleted_at"] is not None
    await cluster.refused(404, "GET", "/v1/instances/web-1")
    done = await cluster.ok("GET", f"/v1/operations/{operation['id']}")
    assert done["state"] == "succeeded"
    assert len(await cluster.events("instance.deleted")) == 1


async def test_a_deleted_instance_of_a_proven_dead_node_goes(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", NodeState.FENCED)
    await cluster.ok("POST", "/v1/instances", json={"name": "web-1", **instance()})
    await cluster.owns("n1", "web-1")
    await cluster.seen("web-1", Phase.STOPPED, "n1", reason="its node is proven dead")
    await cluster.ok("DELETE", "/v1/instances/web-1")

    await cluster.settle()
    await cluster.ok("GET", "/v1/instances/web-1")
    await cluster.proven_dead("n1")
    await cluster.settle()

    await cluster.refused(404, "GET", "/v1/instances/web-1")


async def test_a_deleted_instance_with_a_reservation_stays(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.ok("POST", "/v1/instances", json={"name": "web-1", **instance()})
    instance_id = await cluster.instance_id("web-1")
    async with cluster.others.transaction() as tx:
        await tx.execute(
            insert(placement.reservation).values(
                instance_id=instance_id,
                node_id=cluster.ids["n1"],
                vcpus=2,
                memory_mib=2048,
                created_at=tx.now,
            )
        )

    await cluster.ok("DELETE", "/v1/instances/web-1")
    await cluster.settle()

    await cluster.ok("GET", "/v1/instances/web-1")
    async with cluster.others.transaction() as tx:
        await tx.execute(placement.reservation.delete())
    await cluster.settle()
    await cluster.refused(404, "GET", "/v1/instances/web-1")


async def test_operations_are_listed_newest_first_page_by_page(cluster: Cluster) -> None:
    for number in range(5):
        await cluster.ok("POST", "/v1/cluster/arm", json={"reason": f"number {number}"})

    first = await cluster.ok("GET", "/v1/operations?limit=3&state=pending")
    second = await cluster.ok("GET", f"/v1/operations?limit=3&after={first['next']}")

    reasons = [one["reason"] for one in [*first["items"], *second["items"]]]
    assert reasons == [f"number {number}" for number in (4, 3, 2, 1, 0)]
    assert second["next"] is None


async def test_messages_of_pending_operations_follow_what_is_seen(cluster: Cluster) -> None:
    await cluster.ok("POST", "/v1/instances", json={"name": "web-1", **instance()})
    operation = await cluster.ok("POST", "/v1/instances/web-1/start")
    await cluster.seen("web-1", Phase.PENDING, reason="no node has the room")

    await cluster.settle()

    found = await cluster.ok("GET", f"/v1/operations/{operation['id']}")
    assert found["message"] == "waits to be placed: no node has the room"
