from __future__ import annotations

from tests.unit.api.cluster import Cluster, instance, pool


async def test_apply_creates_changes_and_leaves_alone(cluster: Cluster) -> None:
    await cluster.enrol("n1", "n2")
    document = {
        "pools": {"shared": pool("n1", "n2")},
        "instances": {
            "web-1": instance(disks=[{"pool": "shared"}]),
            "web-2": instance(run_strategy="Halted"),
        },
    }

    first = await cluster.ok("POST", "/v1/apply", json=document)
    document["instances"]["web-2"]["vcpus"] = 4
    second = await cluster.ok("POST", "/v1/apply", json=document)

    assert first["created"] == {"nodes": [], "pools": ["shared"], "instances": ["web-1", "web-2"]}
    assert second["created"] == {"nodes": [], "pools": [], "instances": []}
    assert second["changed"]["instances"] == ["web-2"]
    assert second["unchanged"] == {"nodes": [], "pools": ["shared"], "instances": ["web-1"]}
    shown = await cluster.ok("GET", "/v1/instances/web-2")
    assert (shown["spec"]["vcpus"], shown["generation"]) == (4, 2)
