from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from evac_common.messages.events import NodeSuspect, NodeUp
from evac_common.store import outbox
from tests.unit.api.cluster import Cluster, instance

NODE = "a" * 32
OTHER = "b" * 32


async def emit(cluster: Cluster, *events: Any) -> None:
    async with cluster.others.transaction() as tx:
        for event in events:
            await tx.emit(event)


def up(node_id: str = NODE, incarnation: int = 1) -> NodeUp:
    return NodeUp(node_id=node_id, node="n1", incarnation=incarnation)


class Stream:
    """Reads the event stream as a browser would, straight from the ASGI application."""

    def __init__(self, cluster: Cluster, path: str = "/v1/events", **headers: str) -> None:
        self._cluster = cluster
        path, _, query = path.partition("?")
        given = {"authorization": f"Bearer {cluster.token}", "accept": "text/event-stream"}
        self._scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in {**given, **headers}.items()],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("evac.example", 80),
            "client": ("127.0.0.1", 1),
            "root_path": "",
            "asgi": {"version": "3.0"},
        }
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.status = 0

    async def __aenter__(self) -> Stream:
        async def receive() -> dict[str, Any]:
            await self._gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            for block in message.get("body", b"").decode().split("\n\n"):
                if block:
                    self._queue.put_nowait(block)

        self._task = asyncio.create_task(self._cluster.app(self._scope, receive, send))
        assert await self._next() == ": evac events"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        assert self._task is not None
        await self._task

    async def _next(self) -> str:
        async with asyncio.timeout(5):
            return await self._queue.get()

    async def comment(self) -> str:
        while True:
            block = await self._next()
            if block.startswith(":"):
                return block

    async def event(self) -> dict[str, Any]:
        """The next event: id, name and data."""
        while True:
            block = await self._next()
            if not block.startswith(":"):
                fields = dict(line.split(": ", 1) for line in block.splitlines())
                return {**fields, "data": json.loads(fields["data"])}


async def test_the_latest_events_are_listed_oldest_first(cluster: Cluster) -> None:
    await emit(cluster, *(up(incarnation=number) for number in range(1, 6)))

    page = await cluster.ok("GET", "/v1/events?limit=3")
    rest = await cluster.ok("GET", f"/v1/events?after={page['items'][1]['sequence']}")

    assert [one["data"]["incarnation"] for one in page["items"]] == [3, 4, 5]
    assert [one["data"]["incarnation"] for one in rest["items"]] == [5]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("name=node.up", 2),
        ("name=node.*", 3),
        ("name=node.up&name=node.suspect", 3),
        ("name=cluster.*", 0),
        ("name=node_up", 0),
        (f"subject={OTHER}", 1),
        ("alarms=true", 0),
        ("", 3),
    ],
)
async def test_events_can_be_filtered(cluster: Cluster, query: str, count: int) -> None:
    suspect = NodeSuspect(node_id=NODE, node="n1", silent_s=8.0)
    await emit(cluster, up(), suspect, up(OTHER))

    page = await cluster.ok("GET", f"/v1/events?{query}")

    assert len(page["items"]) == count


async def test_events_can_be_filtered_by_name_of_node_and_instance(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.ok("POST", "/v1/instances", json={"name": "web-1", **instance()})

    of_node = await cluster.ok("GET", "/v1/events?node=n1")
    of_instance = await cluster.ok("GET", "/v1/events?instance=web-1")

    assert [one["name"] for one in of_node["items"]] == ["node.enrolled", "intent.node"]
    assert [one["name"] for one in of_instance["items"]] == ["intent.instance"]
    await cluster.refused(404, "GET", "/v1/events?node=n9")
    await cluster.refused(422, "GET", "/v1/events?node=n1&instance=web-1")


async def test_a_stream_begins_now_and_brings_what_happens(cluster: Cluster) -> None:
    await emit(cluster, up(incarnation=1))

    async with Stream(cluster) as stream:
        await emit(cluster, up(incarnation=2))
        event = await stream.event()

    assert stream.status == 200
    assert event["event"] == "node.up"
    assert event["data"]["data"]["incarnation"] == 2
    assert event["id"] == str(event["data"]["sequence"])


async def test_a_stream_goes_on_after_the_last_event_seen(cluster: Cluster) -> None:
    await emit(cluster, *(up(incarnation=number) for number in range(1, 4)))
    first = (await cluster.ok("GET", "/v1/events"))["items"][0]["sequence"]

    async with Stream(cluster, **{"last-event-id": str(first)}) as stream:
        found = [(await stream.event())["data"]["data"]["incarnation"] for _ in range(2)]

    assert found == [2, 3]


async def test_an_event_that_was_committed_late_is_not_left_out(cluster: Cluster) -> None:
    await emit(cluster, up(incarnation=1), up(incarnation=2))
    async with cluster.others.transaction() as tx:  # what another transaction shows only later
        table = outbox.event
        rows = await tx.rows(table.select().order_by(table.c.sequence))
        await tx.execute(delete(table).where(table.c.sequence == rows[0]["sequence"]))

    async with Stream(cluster, "/v1/events?after=0") as stream:
        seen_first = await stream.event()
        async with cluster.others.transaction() as tx:
            await tx.execute(insert(table).values(**rows[0]))
        seen_late = await stream.event()

    assert seen_first["data"]["data"]["incarnation"] == 2
    assert seen_late["data"]["data"]["incarnation"] == 1


async def test_a_silent_stream_says_that_it_lives_and_ends_when_the_service_stops(
    cluster: Cluster,
) -> None:
    async with Stream(cluster) as stream:
        comment = await stream.comment()
        cluster.app.state.limits.closing.set()
        assert stream._task is not None
        async with asyncio.timeout(5):
            await asyncio.shield(stream._task)

    assert comment == ": still here"


async def test_old_events_are_removed(cluster: Cluster) -> None:
    await emit(cluster, up(), up(OTHER))
    async with cluster.others.transaction() as tx:
        table = outbox.event
        old = tx.now.replace(year=tx.now.year - 1)
        await tx.execute(update(table).where(table.c.subject == NODE).values(created_at=old))

    removed = await cluster.app.state.desk.events.expire()

    assert removed == 1
    assert [one["subject"] for one in await cluster.events()] == [OTHER]
