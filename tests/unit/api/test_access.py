from __future__ import annotations

from dataclasses import replace

import httpx2
import pytest
from fastapi.openapi.models import OpenAPI
from sqlalchemy import select, text, update

from evac_common.store import intent
from tests.unit.api.cluster import Cluster


@pytest.mark.parametrize("header", ["", "Bearer nonsense", "Basic YTpi", "Bearer"])
async def test_without_a_known_token_nothing_is_answered(cluster: Cluster, header: str) -> None:
    response = await cluster.call("GET", "/v1/nodes", headers={"Authorization": header})

    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_a_revoked_token_is_forbidden(cluster: Cluster) -> None:
    async with cluster.store.transaction() as tx:
        await tx.execute(update(intent.api_token).values(revoked_at=tx.now))

    problem = await cluster.refused(403, "GET", "/v1/nodes")

    assert problem["detail"] == "This token was revoked."


async def test_a_token_is_stored_as_a_digest_only(cluster: Cluster) -> None:
    async with cluster.store.read() as tx:
        row = await tx.row(select(intent.api_token))

    assert row is not None
    assert cluster.token not in [str(value) for value in row.values()]
    assert len(row["digest"]) == 64


async def test_health_and_schemas_need_no_token(cluster: Cluster) -> None:
    no_token = {"Authorization": ""}

    assert (await cluster.call("GET", "/livez", headers=no_token)).status_code == 200
    assert (await cluster.call("GET", "/readyz", headers=no_token)).text == "ok\n"
    metrics = await cluster.call("GET", "/metrics", headers=no_token)
    assert "evac_api_requests_total" in metrics.text
    schema = await cluster.call("GET", "/schemas/io.evac.event.node.down.v1.json", headers=no_token)
    assert schema.json()["properties"]["incarnation"]["type"] == "integer"
    await cluster.refused(404, "GET", "/schemas/io.evac.event.node.down.v9.json")


async def test_not_ready_while_broker_or_database_is_away(cluster: Cluster) -> None:
    assert cluster.broker.listening is not None
    cluster.broker.listening.stop()

    response = await cluster.call("GET", "/readyz")

    assert response.status_code == 503
    assert response.text.startswith("broker: ")


async def test_the_openapi_document_describes_every_route(cluster: Cluster) -> None:
    document = await cluster.ok("GET", "/openapi.json")

    OpenAPI.model_validate(document)
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            assert operation.get("description"), f"{verb} {path} has no description"
            if path.startswith("/v1"):
                assert operation["security"] == [{"token": []}], path
                for status in ("401", "403", "422", "503"):
                    content = operation["responses"][status]["content"]
                    assert "application/problem+json" in content, f"{verb} {path} {status}"
    assert "Problem" in document["components"]["schemas"]


class Broken:
    """A part of the desk with a fault."""

    async def show(self) -> None:
        raise ZeroDivisionError("a fault of ours")


async def test_a_fault_of_ours_is_a_problem_without_details(cluster: Cluster) -> None:
    cluster.app.state.desk = replace(cluster.app.state.desk, cluster=Broken())
    transport = httpx2.ASGITransport(cluster.app, raise_app_exceptions=False)

    async with httpx2.AsyncClient(transport=transport, base_url="http://evac.example") as http:
        response = await http.get(
            "/v1/cluster", headers={"Authorization": f"Bearer {cluster.token}"}
        )

    assert response.status_code == 500
    assert response.json()["code"] == "internal"
    assert "ZeroDivision" not in response.text


async def test_a_database_that_is_away_is_503_and_to_be_tried_again(cluster: Cluster) -> None:
    async with cluster.others.transaction() as tx:
        await tx.execute(text("ALTER TABLE node_spec RENAME TO not_yet_migrated"))

    response = await cluster.call("GET", "/v1/nodes")

    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"
    assert response.json()["code"] == "store.unavailable"
    assert "evac-api migrate" in response.json()["detail"]
