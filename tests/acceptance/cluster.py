"""A cluster of five nodes on real servers, and what the acceptance tests ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx2

from evac_lab.judge import Execution, Judgement, judge
from evac_lab.real.controllers import SERVICES
from evac_lab.real.process_cluster import Guests, ProcessCluster
from evac_lab.runner import ON_LABEL, Runner
from evac_lab.scenario.reading import from_text
from evac_monitor import settings as monitor_settings

SOURCE: Final = "n1"  # the node that dies with its instances
NODES: Final = ("n1", "n2", "n3", "n4", "n5")
UP_S: Final = 60.0
BLAST_WINDOW_S: Final = monitor_settings.FAST["blast_window_s"]
POLL_S: Final = 0.1

# Starts elsewhere take a second, twelve at a time: an evacuation of thirty has a middle.
SCENARIO: Final = from_text(
    """
name: acceptance
profile: fast
settings: {scheduler.starts_per_node: 12, scheduler.starts_total: 12, monitor.power_try_s: 5}
nodes:
  n1: {vcpus: 64, memory_mib: 65536, power: redfish}
  n2: {vcpus: 64, memory_mib: 65536, power: ipmi}
  n3: {vcpus: 64, memory_mib: 65536, power: redfish}
  n4: {vcpus: 64, memory_mib: 65536, power: ipmi}
  n5: {vcpus: 64, memory_mib: 65536, power: redfish}
timeline: [at 0 end]
""",
    "acceptance.yaml",
)
GUESTS: Final = Guests(
    start_delay_s=lambda node: 0.05 if node == SOURCE else 1.0, poweroff_delay_s=0.1
)


class Away(Exception):
    """The api, or what it needs, is away."""


async def until(
    what: str,
    missing: Callable[[], Awaitable[Sequence[str]]],
    *,
    deadline_s: float,
    every_s: float = POLL_S,
) -> None:
    """Ask until nothing is missing. An api that is down, perhaps on purpose, is asked again."""
    ends_s = asyncio.get_running_loop().time() + deadline_s
    lacking: Sequence[str] = ["not asked yet"]
    while lacking:
        assert asyncio.get_running_loop().time() < ends_s, f"{what}: after {deadline_s} s {lacking}"
        try:
            lacking = await missing()
        except Away as error:
            lacking = [str(error)]
        if lacking:
            await asyncio.sleep(every_s)


class Acceptance:
    """The running cluster, from a test's point of view."""

    def __init__(self, cluster: ProcessCluster) -> None:
        self.cluster = cluster

    async def bring_up(self) -> None:
        runner = Runner(
            cluster=self.cluster,
            scenario=SCENARIO,
            on_line=lambda line: None,
            on_picture=lambda picture: None,
            progress=lambda text: None,
        )
        await runner.bring_up()

    async def make_whole(self) -> None:
        """Whatever the test before did: every server, service and node is there again."""
        await self.cluster.plane.returned()
        await self.cluster.plane.wait_ready()
        for name, node in self.cluster.nodes.items():
            node.plug()
            if not node.is_on():
                await self.cluster.power(name, on=True)
        await until("all nodes up", self.nodes_not_up, deadline_s=UP_S)
        await until("earlier fencings forgotten", self._recently_cut_off, deadline_s=UP_S)

    async def _recently_cut_off(self) -> list[str]:
        """Nodes that still count towards the blast radius: one of five may be fenced at a time.

        The tests run in any order; without this, one that follows another too soon meets a storm.
        """
        events = (await self.call("GET", "/v1/events?limit=500"))["items"]
        now = self.cluster.now()
        return [
            f"{event['data']['node']} was cut off {age_s:.1f} s ago"
            for event in events
            if event["name"] == "node.down"
            and (age_s := (now - datetime.fromisoformat(event["time"])).total_seconds())
            <= BLAST_WINDOW_S + 1.0
        ]

    async def nodes_not_up(self) -> list[str]:
        nodes = await self.list("nodes")
        return [f"{node['name']} is {node['state']}" for node in nodes if node["state"] != "up"]

    async def only(self, prefix: str, count: int) -> list[str]:
        """Remove all instances and let `count` new ones run on SOURCE, free to go elsewhere."""
        old = [item["name"] for item in await self.list("instances") if not item["deleted_at"]]
        await asyncio.gather(*(self.call("DELETE", f"/v1/instances/{name}") for name in old))
        names = [f"{prefix}-{number:02}" for number in range(1, count + 1)]
        free = {"vcpus": 1, "memory_mib": 256}
        pinned = {**free, "node_selector": {ON_LABEL: SOURCE}}
        await self.call("POST", "/v1/apply", {"instances": dict.fromkeys(names, pinned)})

        async def lacking() -> list[str]:
            items = {item["name"]: item for item in await self.list("instances")}
            return [
                *(f"{name}: {items[name]['status']}" for name in names if not _runs(items[name])),
                *(f"{name} is still there" for name in items if name not in names),
            ]

        await until(f"{count} instances on {SOURCE}", lacking, deadline_s=UP_S)
        await self.call("POST", "/v1/apply", {"instances": dict.fromkeys(names, free)})
        return names

    def logs(self) -> dict[str, Path]:
        plane, nodes = self.cluster.plane, self.cluster.nodes.values()
        return {
            **{service: plane.log(service) for service in SERVICES},
            **{f"compute on {node.name}": node.directory / "compute.log" for node in nodes},
        }

    async def running(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Where each executes now, by the hypervisors' own logs."""
        where: dict[str, list[str]] = {name: [] for name in names}
        for life in await self.cluster.executions():
            if life.ended_s is None and life.instance in where:
                where[life.instance].append(life.node)
        return where

    async def judged(self, names: Sequence[str]) -> Judgement:
        """All that ever executed, judged; `names` should be executing now."""
        now_s = asyncio.get_running_loop().time()
        lives: Sequence[Execution] = await self.cluster.executions()
        return judge(lives, should_run=names, end_s=now_s)

    async def list(self, what: str) -> list[dict[str, Any]]:
        answer = await self.call("GET", f"/v1/{what}")
        items: list[dict[str, Any]] = answer["items"]
        return items

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = await self.cluster.api.request(method, path, json=body)
        except httpx2.TransportError as error:
            raise Away(f"the api does not answer: {error!r}") from error
        if answer.status_code == 503:
            raise Away(answer.text)
        assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None


def _runs(item: dict[str, Any]) -> bool:
    return bool(item["phase"] == "running" and item["node"] == SOURCE)
