from __future__ import annotations

import pytest
from sqlalchemy import select

from evac_common.bus.topology import command_queue
from evac_common.model.identity import node_user
from evac_common.model.states import NodeState, Phase
from evac_common.store import intent
from tests.unit.api.cluster import Cluster, instance, pool

POWER = {"kind": "ipmi", "address": "10.0.0.1", "username": "admin", "password": "hunter2"}


async def test_enrolment_makes_identity_broker_user_and_queue(cluster: Cluster) -> None:
    body = {"name": "n1", "vcpus": 16, "memory_mib": 65536, "labels": {"zone": "a"}}

    answer = await cluster.ok("POST", "/v1/nodes", json=body)

    node_id = answer["node"]["id"]
    credentials = answer["credentials"]
    assert credentials["user"] == node_user(node_id)
    assert credentials["bus_url"] == "amqp://broker.example:5672/evac"
    assert credentials["secret"]
    assert node_user(node_id) in cluster.broker.users
    assert command_queue(node_id).name in cluster.broker.queues
    assert [event["name"] for event in await cluster.events()] == ["node.enrolled", "intent.node"]
    assert answer["node"]["state"] == "new"


async def test_a_bmc_password_is_stored_encrypted_and_never_shown(cluster: Cluster) -> None:
    await cluster.enrol("n1", power=POWER)

    async with cluster.store.read() as tx:
        row = await tx.row(select(intent.node_spec))
    shown = await cluster.call("GET", "/v1/nodes/n1")

    assert row is not None
    assert b"hunter2" not in row["power_secret"]
    assert "hunter2" not in str(row["power"])
    assert "hunter2" not in shown.text
    assert shown.json()["power"]["has_password"] is True


async def test_a_redfish_bmc_has_its_own_port_and_its_fingerprint_is_kept_plain(
    cluster: Cluster,
) -> None:
    digest = "ab" * 32
    colons = ":".join("AB" for _ in range(32))
    power = {"kind": "redfish", "address": "10.0.0.1", "tls_sha256": colons}
    await cluster.enrol("n1", power=power)
    manifest = {"vcpus": 16, "memory_mib": 65536, "power": {**power, "tls_sha256": digest}}

    shown = (await cluster.ok("GET", "/v1/nodes/n1"))["power"]
    again = await cluster.ok("POST", "/v1/apply", json={"nodes": {"n1": manifest}})

    assert (shown["port"], shown["tls_sha256"], shown["system"]) == (443, digest, None)
    assert again["unchanged"]["nodes"] == ["n1"]


async def test_the_secret_is_handed_out_once_even_when_the_request_is_repeated(
    cluster: Cluster,
) -> None:
    body = {"name": "n1", "vcpus": 16, "memory_mib": 65536}
    key = {"Idempotency-Key": "enrol-n1"}

    first = await cluster.ok("POST", "/v1/nodes", json=body, headers=key)
    second = await cluster.ok("POST", "/v1/nodes", json=body, headers=key)

    assert first["credentials"]["secret"]
    assert second["credentials"]["secret"] is None
    assert second["node"] == first["node"]
    async with cluster.store.read() as tx:
        rows = await tx.rows(select(intent.idempotency_key))
    assert first["credentials"]["secret"] not in str(rows)


async def test_apply_keeps_what_a_node_manifest_leaves_out(cluster: Cluster) -> None:
    await cluster.enrol("n1", power=POWER, dmi_uuid="00000000-0000-0000-0000-000000000001")
    manifest = {"vcpus": 32, "memory_mib": 65536, "labels": {"zone": "b"}}

    await cluster.ok("POST", "/v1/apply", json={"nodes": {"n1": manifest}})
    again = await cluster.ok("POST", "/v1/apply", json={"nodes": {"n1": manifest}})
    node = await cluster.ok("GET", "/v1/nodes/n1")

    assert again["unchanged"]["nodes"] == ["n1"]
    assert (node["vcpus"], node["labels"]) == (32, {"zone": "b"})
    assert node["power"]["has_password"] is True
    assert node["dmi_uuid"].endswith("1")


async def test_the_same_password_is_no_change_and_another_one_is(cluster: Cluster) -> None:
    await cluster.enrol("n1", power=POWER)
    manifest = {"vcpus": 16, "memory_mib": 65536, "power": POWER}

    same = await cluster.ok("POST", "/v1/apply", json={"nodes": {"n1": manifest}})
    manifest["power"] = {**POWER, "password": "other"}
    other = await cluster.ok("POST", "/v1/apply", json={"nodes": {"n1": manifest}})
    manifest["power"] = None
    none = await cluster.ok("POST", "/v1/apply", json={"nodes": {"n1": manifest}})

    assert same["unchanged"]["nodes"] == ["n1"]
    assert other["changed"]["nodes"] == ["n1"]
    assert none["changed"]["nodes"] == ["n1"]
    async with cluster.store.read() as tx:
        assert await tx.scalar(select(intent.node_spec.c.power_secret)) is None


VERBS = [
    ("fence", NodeState.UP, 202, ""),
    ("fence", NodeState.JOINING, 202, ""),
    ("fence", NodeState.SUSPECT, 202, ""),
    ("fence", NodeState.NEW, 409, "forget"),
    ("fence", NodeState.FENCING, 409, "confirm-down"),
    ("fence", NodeState.BLOCKED, 409, "confirm-down"),
    ("fence", NodeState.FENCED, 409, "evacuate"),
    ("confirm-down", NodeState.SUSPECT, 202, ""),
    ("confirm-down", NodeState.FENCING, 202, ""),
    ("confirm-down", NodeState.BLOCKED, 202, ""),
    ("confirm-down", NodeState.NEW, 409, "forget"),
    ("confirm-down", NodeState.JOINING, 409, "fence"),
    ("confirm-down", NodeState.UP, 409, "fence"),
    ("confirm-down", NodeState.FENCED, 409, "evacuate"),
    ("evacuate", NodeState.FENCED, 202, ""),
    ("evacuate", NodeState.SUSPECT, 202, ""),
    ("evacuate", NodeState.FENCING, 202, ""),
    ("evacuate", NodeState.NEW, 409, "nothing to do"),
    ("evacuate", NodeState.JOINING, 409, "drain"),
    ("evacuate", NodeState.UP, 409, "drain"),
    ("evacuate", NodeState.BLOCKED, 409, "confirm-down"),
]


@pytest.mark.parametrize(("verb", "state", "status", "hint"), VERBS)
async def test_each_verb_is_allowed_where_it_makes_sense_and_names_what_would_do(
    cluster: Cluster, verb: str, state: NodeState, status: int, hint: str
) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", state)
    body = {"reason": "smoke in rack 3"}
    if verb == "confirm-down":
        body["name"] = "n1"
    before = await cluster.counts()

    response = await cluster.call("POST", f"/v1/nodes/n1/{verb}", json=body)

    assert response.status_code == status, response.text
    if status == 202:
        operation = response.json()
        assert response.headers["location"] == f"/v1/operations/{operation['id']}"
        assert operation["verb"] == f"node.{verb.replace('-', '_')}"
        after = await cluster.counts()
        grown = {name for name in after if after[name] != before[name]}
        assert grown == {"node_wish", "operation", "event", "outbox", "audit"}
        names = [event["name"] for event in await cluster.events()][-2:]
        assert names == ["operation.accepted", "intent.node"]
    else:
        assert hint in response.json()["hint"]
        assert await cluster.counts() == before


async def test_confirm_down_wants_the_name_repeated(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", NodeState.BLOCKED)

    problem = await cluster.refused(
        422, "POST", "/v1/nodes/n1/confirm-down", json={"reason": "off", "name": "n2"}
    )

    assert problem["violations"][0]["rule"] == "must repeat the node's name, n1"


async def test_forgetting_removes_user_queue_and_pool_entry(cluster: Cluster) -> None:
    await cluster.enrol("n1", "n2")
    await cluster.ok("POST", "/v1/pools", json={"name": "p", **pool("n1", "n2")})

    await cluster.ok("DELETE", "/v1/nodes/n1")

    assert node_user(cluster.ids["n1"]) not in cluster.broker.users
    assert command_queue(cluster.ids["n1"]).name not in cluster.broker.queues
    assert (await cluster.ok("GET", "/v1/pools/p"))["nodes"] == ["n2"]
    await cluster.refused(404, "GET", "/v1/nodes/n1")


@pytest.mark.parametrize("state", [s for s in NodeState if s not in ("new", "fenced")])
async def test_a_node_that_may_run_something_is_not_forgotten(
    cluster: Cluster, state: NodeState
) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", state)

    await cluster.refused(409, "DELETE", "/v1/nodes/n1")

    assert node_user(cluster.ids["n1"]) in cluster.broker.users


async def test_a_fenced_node_whose_instances_are_not_proven_dead_is_not_forgotten(
    cluster: Cluster,
) -> None:
    await cluster.enrol("n1")
    await cluster.ok("POST", "/v1/instances", json={"name": "web-1", **instance()})
    await cluster.owns("n1", "web-1")
    await cluster.is_in_state("n1", NodeState.FENCED)

    problem = await cluster.refused(409, "DELETE", "/v1/nodes/n1")
    await cluster.proven_dead("n1")
    await cluster.ok("DELETE", "/v1/nodes/n1")

    assert "owner of 1 instance(s)" in problem["detail"]


async def test_a_node_shows_what_the_ledger_says_it_holds(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", NodeState.UP)
    for name in ("a", "b"):
        await cluster.ok("POST", "/v1/instances", json={"name": name, **instance()})
        await cluster.owns("n1", name)
        await cluster.seen(name, Phase.RUNNING, "n1")
    await cluster.released("n1", "b")

    node = (await cluster.ok("GET", "/v1/nodes"))["items"][0]

    assert (node["instances"], node["vcpus_used"], node["memory_mib_used"]) == (1, 2, 2048)


async def test_lists_are_given_page_by_page(cluster: Cluster) -> None:
    await cluster.enrol("n1", "n2", "n3")

    first = await cluster.ok("GET", "/v1/nodes?limit=2")
    second = await cluster.ok("GET", f"/v1/nodes?limit=2&after={first['next']}")

    assert [node["name"] for node in first["items"]] == ["n1", "n2"]
    assert ([node["name"] for node in second["items"]], second["next"]) == (["n3"], None)
