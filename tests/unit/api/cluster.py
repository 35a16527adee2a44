"""A small cluster behind the api, for its tests: real SQLite, the bus in memory.

The other services' tables are filled by hand here, with what these services would have written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx2
from fastapi import FastAPI
from sqlalchemy import insert, select, update

from evac_api.service import create_app
from evac_api.settings import Settings
from evac_common.bus.admin import EmbeddedAdmin
from evac_common.bus.embedded import EmbeddedBroker, EmbeddedBus, EmbeddedState
from evac_common.model.identity import API_USER
from evac_common.model.states import NodeState, Phase
from evac_common.service.clock import SystemClock
from evac_common.service.secrets import SecretBox
from evac_common.store import intent, nodes, outbox, placement
from evac_common.store.engine import Store


@dataclass
class Cluster:
    app: FastAPI
    store: Store  # the api's own
    others: Store  # for what the other services would write
    broker: EmbeddedState
    http: httpx2.AsyncClient
    token: str
    ids: dict[str, str] = field(default_factory=dict)

    async def call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        return await self.http.request(method, path, **options)

    async def ok(self, method: str, path: str, **options: Any) -> Any:
        """The answer's body; fails with the problem when it was refused."""
        response = await self.call(method, path, **options)
        assert response.status_code < 400, response.text
        return response.json() if response.content else None

    async def refused(self, status: int, method: str, path: str, **options: Any) -> dict[str, Any]:
        response = await self.call(method, path, **options)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        body: dict[str, Any] = response.json()
        assert body["status"] == status
        return body

    async def enrol(self, *names: str, **fields: Any) -> None:
        for name in names:
            body = {"name": name, "vcpus": 16, "memory_mib": 65536, **fields}
            answer = await self.ok("POST", "/v1/nodes", json=body)
            self.ids[name] = answer["node"]["id"]

    async def is_in_state(
        self, name: str, state: NodeState, *, incarnation: int = 1, **values: Any
    ) -> None:
        """The monitor's row of a node."""
        async with self.others.transaction() as tx:
            table = nodes.node_state
            row = {
                "state": state.value,
                "term": 1,
                "incarnation": incarnation,
                "generation": 1,
                "reason": f"is {state.value}",
                "since": tx.now,
                "heard_at": tx.now,
                "decision": [],
                **values,
            }
            where = table.c.node_id == self.ids[name]
            if not await tx.change(update(table).where(where).values(**row)):
                await tx.execute(insert(table).values(node_id=self.ids[name], **row))

    async def proven_dead(self, name: str, *, incarnation: int = 1) -> str:
        async with self.others.transaction() as tx:
            proof_id = tx.clock.new_id()
            await tx.execute(
                insert(nodes.proof_node).values(
                    id=proof_id,
                    node_id=self.ids[name],
                    incarnation=incarnation,
                    kind="power",
                    evidence={"read": "Off twice"},
                    actor="monitor",
                    created_at=tx.now,
                )
            )
        return proof_id

    async def owns(
        self, node: str, instance: str, *, epoch: int = 1, proof: str | None = None
    ) -> None:
        """A row of the ledger."""
        async with self.others.transaction() as tx:
            await tx.execute(
                insert(placement.ownership).values(
                    instance_id=await self.instance_id(instance),
                    epoch=epoch,
                    node_id=self.ids[node],
                    term=1,
                    incarnation=1,
                    run=1,
                    proof_node_id=proof,
                    created_at=tx.now,
                )
            )

    async def released(self, node: str, instance: str, *, epoch: int = 1) -> None:
        async with self.others.transaction() as tx:
            await tx.execute(
                insert(placement.proof_release).values(
                    id=tx.clock.new_id(),
                    instance_id=await self.instance_id(instance),
                    epoch=epoch,
                    node_id=self.ids[node],
                    kind="stopped",
                    evidence="stopped, tombstone on disk",
                    created_at=tx.now,
                )
            )

    async def seen(
        self,
        instance: str,
        phase: Phase,
        node: str | None = None,
        *,
        ago_s: float = 0,
        **values: Any,
    ) -> None:
        """The scheduler's status row of an instance."""
        instance_id = await self.instance_id(instance)
        async with self.others.transaction() as tx:
            table = placement.instance_status
            row = {
                "phase": phase.value,
                "node_id": self.ids[node] if node else None,
                "epoch": 1,
                "run": 1,
                "reason": "",
                "candidates": [],
                "attempts": 0,
                "observed_at": tx.now - timedelta(seconds=ago_s),
                "changed_at": tx.now - timedelta(seconds=ago_s),
                **values,
            }
            where = table.c.instance_id == instance_id
            if not await tx.change(update(table).where(where).values(**row)):
                await tx.execute(insert(table).values(instance_id=instance_id, **row))

    async def answered(self, operation_id: str, *, result: str, reason: str) -> None:
        """The monitor's answer to the wish behind an operation."""
        async with self.others.transaction() as tx:
            operation = intent.operation
            wish_id = await tx.scalar(
                select(operation.c.wish_id).where(operation.c.id == operation_id)
            )
            await tx.execute(
                insert(nodes.monitor_wish_outcome).values(
                    wish_id=wish_id, result=result, reason=reason, created_at=tx.now
                )
            )

    async def instance_id(self, name: str) -> str:
        async with self.store.read() as tx:
            spec = intent.instance_spec
            return str(await tx.scalar(select(spec.c.id).where(spec.c.name == name)))

    async def events(self, name: str | None = None) -> list[dict[str, Any]]:
        async with self.store.read() as tx:
            query = select(outbox.event).order_by(outbox.event.c.sequence)
            rows = await tx.rows(query)
        return [dict(row) for row in rows if name is None or row["name"] == name]

    async def counts(self) -> dict[str, int]:
        """How many rows every table that a request may write has."""
        async with self.store.read() as tx:
            return {
                table.name: len(await tx.rows(select(table)))
                for table in (*intent.TABLES, *outbox.TABLES)
            }

    async def settle(self) -> None:
        await self.app.state.desk.operations.purge()
        await self.app.state.desk.operations.settle()


def instance(**fields: Any) -> dict[str, Any]:
    return {"vcpus": 2, "memory_mib": 2048, **fields}


def pool(*names: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "nfs", "source": "/srv/vm", "nodes": list(names), **fields}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@asynccontextmanager
async def open_cluster(url: str, url_of_others: str) -> AsyncIterator[Cluster]:
    """The api on a migrated database; `url_of_others` may write what the api may not."""
    clock = SystemClock()
    store = Store.open(url, service="api", clock=clock)
    others = Store.open(url_of_others, service="scheduler", clock=clock)
    state = EmbeddedState.with_controllers()
    EmbeddedBroker(state)
    bus = EmbeddedBus(state, user=API_USER, clock=clock)
    app = create_app(
        Settings(
            poll_s=0.02,
            wait_max_s=5,
            keepalive_s=0.2,
            nodes_bus_url="amqp://broker.example:5672/evac",
        ),
        clock=clock,
        bus=bus,
        store=store,
        admin=EmbeddedAdmin(state),
        secrets=SecretBox([SecretBox.new_key()]),
    )
    running = asyncio.create_task(bus.run())
    await app.state.queues.step()
    token = await app.state.desk.tokens.issue("tester")
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app),
        base_url="http://evac.example",
        headers={"Authorization": f"Bearer {token}"},
    ) as http:
        yield Cluster(app=app, store=store, others=others, broker=state, http=http, token=token)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await store.close()
    await others.close()
