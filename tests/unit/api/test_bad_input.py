"""What is refused is refused whole: field, value and rule are named, and no row is written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit.api.cluster import Cluster, instance, pool

APPLY: list[tuple[str, Any, str, Any, str]] = [
    (
        "unknown field",
        {"instances": {"web-1": instance(colour="red")}},
        "instances.web-1.colour",
        "red",
        "no such field",
    ),
    (
        "unknown section",
        {"machines": {}},
        "machines",
        "an object",
        "no such field",
    ),
    (
        "negative size",
        {"instances": {"web-1": instance(memory_mib=-1)}},
        "instances.web-1.memory_mib",
        -1,
        "greater than or equal to 2",
    ),
    (
        "size as a text",
        {"instances": {"web-1": instance(memory_mib="much")}},
        "instances.web-1.memory_mib",
        "much",
        "integer",
    ),
    (
        "missing size",
        {"instances": {"web-1": {"vcpus": 1}}},
        "instances.web-1.memory_mib",
        None,
        "is required",
    ),
    (
        "bad name",
        {"instances": {"Web_1": instance()}},
        "instances.Web_1",
        "Web_1",
        "must match",
    ),
    (
        "unknown pool of a disk",
        {"instances": {"web-1": instance(disks=[{"pool": "shared"}, {"pool": "nowhere"}])}},
        "instances.web-1.disks[1].pool",
        "nowhere",
        "no such pool",
    ),
    (
        "unknown node of a pool",
        {"pools": {"fast": pool("n1", "n9")}},
        "pools.fast.nodes[1]",
        "n9",
        "enrol first",
    ),
    (
        "node twice in a pool",
        {"pools": {"fast": pool("n1", "n1")}},
        "pools.fast.nodes[1]",
        "n1",
        "is given twice",
    ),
    (
        "node that is not enrolled",
        {"nodes": {"n9": {"vcpus": 1, "memory_mib": 1024}}},
        "nodes.n9",
        "n9",
        "enrol first",
    ),
    (
        "strategy of a later version",
        {"instances": {"web-1": instance(run_strategy="Once")}},
        "instances.web-1.run_strategy",
        "Once",
        "only Always and Halted are supported",
    ),
    (
        "no strategy at all",
        {"instances": {"web-1": instance(run_strategy="Sometimes")}},
        "instances.web-1.run_strategy",
        "Sometimes",
        "Input should be",
    ),
    (
        "policies",
        {"policies": [{"kind": "anti-affinity", "instances": ["web-1"]}]},
        "policies",
        "a list",
        "policies are not supported by this version",
    ),
    (
        "the same volume twice in an instance",
        {"instances": {"web-1": instance(disks=[{"pool": "shared", "volume": "a"}] * 2)}},
        "instances.web-1",
        "an object",
        "the same volume of the same pool is given twice",
    ),
    (
        "a volume of another instance",
        {"instances": {"web-1": instance(disks=[{"pool": "shared", "volume": "taken"}])}},
        "instances.web-1.disks[0].volume",
        "taken",
        "is a disk of old",
    ),
    (
        "a path as a volume",
        {"instances": {"web-1": instance(disks=[{"pool": "shared", "volume": "../etc"}])}},
        "instances.web-1.disks[0].volume",
        "../etc",
        "must match",
    ),
    (
        "another kind for a pool in use",
        {"pools": {"shared": pool("n1", "n2", kind="lvm")}},
        "pools.shared.kind",
        "lvm",
        "cannot change while instances have disks in it (old)",
    ),
    (
        "something that is no document",
        ["web-1"],
        "the document",
        "a list",
        "valid dictionary",
    ),
]


@pytest.fixture
async def filled(cluster: Cluster) -> Cluster:
    await cluster.enrol("n1", "n2")
    document = {
        "pools": {"shared": pool("n1", "n2")},
        "instances": {"old": instance(disks=[{"pool": "shared", "volume": "taken"}])},
    }
    await cluster.ok("POST", "/v1/apply", json=document)
    return cluster


@pytest.mark.parametrize(
    ("document", "field", "value", "rule"),
    [case[1:] for case in APPLY],
    ids=[case[0] for case in APPLY],
)
async def test_apply_refuses_the_whole_document_and_names_the_field(
    filled: Cluster, document: Any, field: str, value: Any, rule: str
) -> None:
    if isinstance(document, dict):
        document = {**document, "instances": {"good": instance(), **document.get("instances", {})}}
    before = await filled.counts()

    problem = await filled.refused(422, "POST", "/v1/apply", json=document)

    found = {one["field"]: one for one in problem["violations"]}
    assert field in found, problem
    assert found[field]["value"] == value
    assert rule in found[field]["rule"]
    assert await filled.counts() == before


BODIES = [
    (b'{"pools": {}, "pools": {}}', "pools", "is given twice"),
    (
        b'{"instances": {"a": {"vcpus": 1, "memory_mib": 2}, "a": {"vcpus": 1, "memory_mib": 2}}}',
        "instances.a",
        "is given twice",
    ),
    (
        b'{"instances": {"a": {"vcpus": 1, "vcpus": 2, "memory_mib": 2}}}',
        "instances.a.vcpus",
        "is given twice",
    ),
    (b'{"instances": ', "the document", "is not JSON"),
    (b'{"instances": {"a": {"vcpus": NaN}}}', "the document", "NaN is not a number"),
    (b"\xff\xfe{}", "the document", "not"),
    (b"[" * 100_000, "the document", "is nested too deeply"),
    (b'{"instances": {"a": {"vcpus": 1' + b"0" * 5000 + b"}}}", "the document", "is not JSON"),
]


@pytest.mark.parametrize(("body", "field", "rule"), BODIES)
async def test_json_that_is_not_as_we_want_it_is_refused(
    filled: Cluster, body: bytes, field: str, rule: str
) -> None:
    before = await filled.counts()

    problem = await filled.refused(
        422, "POST", "/v1/apply", content=body, headers={"Content-Type": "application/json"}
    )

    assert problem["violations"][0]["field"] == field
    assert rule in problem["violations"][0]["rule"]
    assert await filled.counts() == before


async def test_all_violations_are_told_at_once(filled: Cluster) -> None:
    document = {
        "nodes": {"n9": {"vcpus": 1, "memory_mib": 1024}},
        "instances": {
            "a": instance(disks=[{"pool": "nowhere"}]),
            "b": instance(run_strategy="Manual"),
        },
    }

    problem = await filled.refused(422, "POST", "/v1/apply", json=document)

    assert [one["field"] for one in problem["violations"]] == [
        "nodes.n9",
        "instances.a.disks[0].pool",
        "instances.b.run_strategy",
    ]


async def test_a_body_that_is_not_json_is_told_so(cluster: Cluster) -> None:
    problem = await cluster.refused(
        415, "POST", "/v1/apply", content=b"instances: {}", headers={"Content-Type": "text/yaml"}
    )

    assert problem["detail"] == "the body must be application/json"


async def test_a_body_above_the_limit_is_refused(cluster: Cluster) -> None:
    body = json.dumps({"instances": {"a": {"x": "y" * (4 * 1024 * 1024)}}}).encode()

    async def unannounced() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    headers = {"Content-Type": "application/json"}
    await cluster.refused(413, "POST", "/v1/apply", content=body, headers=headers)
    await cluster.refused(413, "POST", "/v1/apply", content=unannounced(), headers=headers)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/nodes", {"name": "n1", "vcpus": 0, "memory_mib": 1024}),
        ("POST", "/v1/nodes", {"name": "n1", "vcpus": 1, "memory_mib": 1024, "rack": 3}),
        ("POST", "/v1/instances", {"name": "a b", **instance()}),
        ("POST", "/v1/instances", {"name": "a", **instance(priority=9)}),
        ("POST", "/v1/nodes/n1/fence", {}),
        ("POST", "/v1/nodes/n1/fence", {"reason": "  x "}),
        ("POST", "/v1/nodes/n1/fence", {"reason": "fire\u0000"}),
        ("POST", "/v1/nodes/n1/fence", {"reason": "fire", "force": True}),
        ("POST", "/v1/nodes/n1/confirm-down", {"reason": "I pulled the plug"}),
        ("POST", "/v1/cluster/disarm", {"reason": "storage work"}),
        ("POST", "/v1/cluster/disarm", {"reason": "storage work", "for_s": -1}),
        ("GET", "/v1/operations/nonsense", None),
        ("GET", "/v1/operations?state=lost", None),
        ("GET", "/v1/operations/" + "0" * 32 + "?wait=-1", None),
        ("GET", "/v1/events?name=NODE", None),
        ("GET", "/v1/events?after=x", None),
        ("GET", "/v1/nodes?limit=0", None),
        ("GET", "/v1/nodes/N_1", None),
    ],
)
async def test_every_route_names_what_it_refuses(
    cluster: Cluster, method: str, path: str, body: Any
) -> None:
    before = await cluster.counts()

    problem = await cluster.refused(422, method, path, json=body)

    assert problem["violations"], problem
    assert all(one["field"] and one["rule"] for one in problem["violations"])
    assert await cluster.counts() == before


async def test_a_reason_that_is_too_short_is_told_how_long_it_must_be(cluster: Cluster) -> None:
    problem = await cluster.refused(422, "POST", "/v1/nodes/n1/fence", json={"reason": "x"})

    assert problem["violations"][0]["rule"] == "must have at least 3 characters"


@pytest.mark.parametrize(
    ("power", "field", "rule"),
    [
        ({"kind": "ilo"}, "power.kind", "should be 'ipmi' or 'redfish'"),
        ({"system": "/redfish/v1/Systems/1"}, "power.system", "is for redfish"),
        ({"tls_sha256": "00" * 32}, "power.tls_sha256", "is for redfish"),
        ({"kind": "redfish", "system": "Systems/1"}, "power.system", "must match"),
        ({"kind": "redfish", "system": "/redfish/v1/Systems/../1"}, "power.system", "must match"),
        ({"kind": "redfish", "tls_sha256": "00:11"}, "power.tls_sha256", "64 hexadecimal digits"),
        ({"kind": "redfish", "tls_sha256": "g" * 64}, "power.tls_sha256", "64 hexadecimal digits"),
        ({"kind": "redfish", "port": 0}, "power.port", "greater than or equal to 1"),
        ({"kind": "redfish", "port": None}, "power.port", "valid integer"),
        ({"kind": ["redfish"]}, "power.kind", "should be"),
    ],
)
async def test_a_bmc_that_makes_no_sense_is_refused_by_field(
    cluster: Cluster, power: dict[str, Any], field: str, rule: str
) -> None:
    """Accepted, it would show as a node with power, and could be fenced by nobody."""
    power = {"kind": "ipmi", "address": "10.0.9.1", **power}
    node = {"vcpus": 1, "memory_mib": 1024, "power": power}

    enrolling = await cluster.refused(422, "POST", "/v1/nodes", json={"name": "n1", **node})
    applying = await cluster.refused(422, "POST", "/v1/apply", json={"nodes": {"n1": node}})

    assert [one["field"] for one in enrolling["violations"]] == [field]
    assert rule in enrolling["violations"][0]["rule"]
    assert applying["violations"][0]["field"] == f"nodes.n1.{field}"


async def test_a_password_is_never_repeated_in_a_refusal(cluster: Cluster) -> None:
    power = {"kind": "ipmi", "address": "", "password": ["hunter2"], "passwd": "hunter2"}
    body = {"name": "n1", "vcpus": 1, "memory_mib": 1024, "power": power}

    response = await cluster.call("POST", "/v1/nodes", json=body)

    assert response.status_code == 422
    assert "hunter2" not in response.text
    assert "power.passwd" in response.text


async def test_a_name_that_is_taken_is_refused(filled: Cluster) -> None:
    await filled.refused(409, "POST", "/v1/instances", json={"name": "old", **instance()})
    await filled.refused(409, "POST", "/v1/pools", json={"name": "shared", **pool("n1")})
    problem = await filled.refused(
        409, "POST", "/v1/nodes", json={"name": "n1", "vcpus": 1, "memory_mib": 1024}
    )

    assert problem["hint"] == "`evac node show n1`"


async def test_what_is_not_there_is_told_so(cluster: Cluster) -> None:
    for path in (
        "/v1/nodes/n1",
        "/v1/pools/p",
        "/v1/instances/i",
        "/v1/instances/i/explain",
        "/v1/operations/" + "0" * 32,
        "/v1/nothing",
    ):
        await cluster.refused(404, "GET", path)
    await cluster.refused(405, "PATCH", "/v1/nodes")
