from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evac_api.core.status import Seen, is_certain, summary
from evac_common.model.states import NodeState, Phase
from tests.unit.api.cluster import Cluster, instance, pool

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


def seen(phase: Phase | None, **fields: object) -> Seen:
    values: dict[str, object] = {
        "node": "n2",
        "node_state": NodeState.UP,
        "node_heard_at": NOW,
        "observed_at": NOW - timedelta(seconds=41),
        **fields,
    }
    return Seen(phase=phase, **values)  # type: ignore[arg-type]  # fields are named by the tests


SUMMARIES = [
    (seen(Phase.RUNNING), "running on n2"),
    (seen(Phase.STARTING, reason="run 2"), "starting on n2: run 2"),
    (
        seen(Phase.RUNNING, node_state=NodeState.SUSPECT),
        "unknown (last seen running on n2 41 s ago)",
    ),
    (
        seen(Phase.RUNNING, node_state=NodeState.BLOCKED),
        "unknown (last seen running on n2 41 s ago)",
    ),
    (
        seen(Phase.RUNNING, node_state=NodeState.JOINING),
        "unknown (last seen running on n2 41 s ago)",
    ),
    (
        seen(Phase.RUNNING, node_heard_at=NOW - timedelta(minutes=5)),
        "unknown (last seen running on n2 41 s ago)",
    ),
    (
        seen(Phase.RUNNING, node_state=NodeState.FENCED),
        "not running: n2 is proven dead (last seen running 41 s ago)",
    ),
    (seen(Phase.PENDING, reason="no room"), "pending: no room"),
    (seen(Phase.STOPPED, halted=True), "stopped"),
    (seen(Phase.STOPPED, reason="released"), "pending: released"),
    (seen(None), "pending: waits to be placed"),
    (seen(None, halted=True), "stopped"),
    (seen(Phase.EXITED, reason="crashed"), "exited on n2: crashed"),
]


@pytest.mark.parametrize(("one", "text"), SUMMARIES)
def test_the_status_says_no_more_than_is_known(one: Seen, text: str) -> None:
    assert summary(one, NOW) == text


def test_only_a_node_that_lives_and_is_heard_makes_it_certain() -> None:
    states = [state for state in NodeState if is_certain(seen(None, node_state=state), NOW)]

    assert states == [NodeState.UP, NodeState.DEGRADED]


async def test_a_running_instance_of_a_silent_node_is_unknown(cluster: Cluster) -> None:
    await cluster.enrol("n2")
    await cluster.is_in_state("n2", NodeState.UP)
    await cluster.ok("POST", "/v1/instances", json={"name": "web-1", **instance()})
    await cluster.owns("n2", "web-1")
    await cluster.seen("web-1", Phase.RUNNING, "n2", ago_s=41)

    before = await cluster.ok("GET", "/v1/instances/web-1")
    await cluster.is_in_state("n2", NodeState.SUSPECT)
    after = await cluster.ok("GET", "/v1/instances/web-1")

    assert (before["status"], before["certain"]) == ("running on n2", True)
    assert (after["status"], after["certain"]) == (
        "unknown (last seen running on n2 41 s ago)",
        False,
    )
    assert after["phase"] == "running"


async def test_an_instance_can_be_created_replaced_and_listed(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.ok("POST", "/v1/pools", json={"name": "p", **pool("n1")})
    body = instance(disks=[{"pool": "p"}], labels={"app": "web"})

    created = await cluster.call("POST", "/v1/instances", json={"name": "web-1", **body})
    replaced = await cluster.call("PUT", "/v1/instances/web-1", json={**body, "vcpus": 8})
    made = await cluster.call("PUT", "/v1/instances/web-2", json=body)

    assert (created.status_code, created.headers["etag"]) == (201, '"1"')
    assert created.headers["location"] == "/v1/instances/web-1"
    assert (replaced.status_code, replaced.headers["etag"]) == (200, '"2"')
    assert made.status_code == 201
    items = (await cluster.ok("GET", "/v1/instances"))["items"]
    assert [(one["name"], one["spec"]["vcpus"]) for one in items] == [("web-1", 8), ("web-2", 2)]


async def test_if_match_protects_against_a_lost_update(cluster: Cluster) -> None:
    await cluster.ok("POST", "/v1/instances", json={"name": "a", **instance()})
    old = {"If-Match": '"1"'}

    await cluster.ok("PUT", "/v1/instances/a", json=instance(vcpus=3), headers=old)
    await cluster.refused(412, "PUT", "/v1/instances/a", json=instance(vcpus=4), headers=old)
    await cluster.refused(412, "POST", "/v1/instances/a/stop", headers=old)
    await cluster.refused(412, "DELETE", "/v1/instances/a", headers=old)
    await cluster.refused(422, "DELETE", "/v1/instances/a", headers={"If-Match": "latest"})

    assert (await cluster.ok("GET", "/v1/instances/a"))["spec"]["vcpus"] == 3


async def test_a_repeated_request_under_one_key_is_carried_out_once(cluster: Cluster) -> None:
    await cluster.ok("POST", "/v1/instances", json={"name": "a", **instance()})
    key = {"Idempotency-Key": "7"}

    first = await cluster.call("POST", "/v1/instances/a/stop", headers=key)
    second = await cluster.call("POST", "/v1/instances/a/stop", headers=key)
    problem = await cluster.refused(422, "POST", "/v1/instances/a/start", headers=key)

    assert first.json() == second.json()
    assert second.headers["location"] == first.headers["location"]
    assert problem["violations"][0]["field"] == "Idempotency-Key"
    assert len((await cluster.ok("GET", "/v1/operations"))["items"]) == 1


async def test_shareable_volumes_may_be_shared(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    disk = {"pool": "p", "volume": "quorum", "shareable": True}
    document = {
        "pools": {"p": pool("n1")},
        "instances": {"a": instance(disks=[disk]), "b": instance(disks=[disk])},
    }

    await cluster.ok("POST", "/v1/apply", json=document)
    alone = instance(disks=[{**disk, "shareable": False}])
    await cluster.refused(422, "POST", "/v1/instances", json={"name": "c", **alone})


async def test_delete_removes_what_a_document_names_and_keeps_nodes(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    document = {
        "pools": {"p": pool("n1")},
        "instances": {"a": instance(disks=[{"pool": "p"}])},
    }
    await cluster.ok("POST", "/v1/apply", json=document)
    document["nodes"] = {"n1": {"vcpus": 1, "memory_mib": 1024}}
    document["instances"]["gone"] = instance()

    answer = await cluster.ok("POST", "/v1/delete", json=document)
    await cluster.settle()

    assert answer["deleted"] == {"pools": ["p"], "instances": ["a"]}
    assert answer["absent"] == {"pools": [], "instances": ["gone"]}
    assert answer["kept"]["nodes"][0]["name"] == "n1"
    assert [one["verb"] for one in answer["operations"]] == ["instance.delete"]
    await cluster.refused(404, "GET", "/v1/instances/a")
    await cluster.ok("GET", "/v1/nodes/n1")


async def test_a_pool_in_use_is_not_deleted_nor_anything_with_it(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    document = {
        "pools": {"p": pool("n1")},
        "instances": {"a": instance(disks=[{"pool": "p"}]), "b": instance()},
    }
    await cluster.ok("POST", "/v1/apply", json=document)
    before = await cluster.counts()

    await cluster.refused(409, "DELETE", "/v1/pools/p")
    await cluster.refused(409, "POST", "/v1/delete", json={"pools": ["p"], "instances": ["b"]})

    assert await cluster.counts() == before


async def test_an_instance_that_is_being_deleted_can_only_be_waited_for(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", NodeState.UP)
    await cluster.ok("POST", "/v1/instances", json={"name": "a", **instance()})
    await cluster.owns("n1", "a")
    await cluster.ok("DELETE", "/v1/instances/a")

    await cluster.refused(409, "POST", "/v1/instances/a/start")
    problem = await cluster.refused(422, "POST", "/v1/apply", json={"instances": {"a": instance()}})

    assert problem["violations"][0]["rule"].startswith("is being deleted")
