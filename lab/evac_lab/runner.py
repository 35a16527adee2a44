"""Run a scenario on a cluster of either kind: bring it up, live through the time line, judge.

The runner talks to evac as every outside tool does, over its HTTP API; what really happened it asks
the hypervisors. Second 0 of the time line is when every node is up and every instance runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Protocol

import httpx2

from evac_common.cli.output import Output
from evac_common.model.states import RunStrategy
from evac_lab.commands import Operator
from evac_lab.judge import Execution, Judgement, judge
from evac_lab.narrate import Line, narrate
from evac_lab.scenario.document import ScenarioNode
from evac_lab.scenario.expect import Found, failures, may_be_down
from evac_lab.scenario.reading import Scenario
from evac_lab.scenario.timeline import Action, Command, End, Power, Step
from evac_lab.view import InstanceRow, NodeRow, Picture
from evac_lab.watch import ApiAway, Event, EventWatch, LabFailed, call

__all__ = ["Cluster", "LabFailed", "Outcome", "Runner"]

# `on: n1` means: epoch 1 is created there. The lab says so through the public API: every node
# carries this label; an instance is applied with a selector for it and, once it runs, without.
ON_LABEL: Final = "evac-lab/node"


class Cluster(Protocol):
    """A whole cluster on one machine, of one kind or the other."""

    @property
    def api(self) -> httpx2.AsyncClient:
        """A client of the cluster's api, with a token."""

    async def enrolled(self, name: str, identity: Mapping[str, Any]) -> None:
        """A node was enrolled; `identity` is what its `node.toml` holds."""

    def power_of(self, name: str, node: ScenarioNode) -> Mapping[str, Any] | None:
        """How the monitor is to reach the node's BMC (the manifest's `power`), or None."""

    def disks_of(self, instance: str) -> Sequence[Mapping[str, Any]]:
        """Disks for an instance that declares none (boot sector disks on the real lab)."""

    def now(self) -> datetime:
        """The wall clock that the services use."""

    async def act(self, action: Action) -> None:
        """Do what a line of the time line says (all but Command and End)."""

    async def evac(self, argv: Sequence[str], output: Output) -> int:
        """Run one command of the operator, as a shell would; its exit code."""

    def hardware(self, name: str) -> tuple[str, str]:
        """(power, network) of a node's hardware, for the picture: ("on", "ok")."""

    async def executions(self) -> Sequence[Execution]:
        """Everything that ever executed, by instance and node name; times on the runner's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run showed."""

    judgement: Judgement
    failed: Sequence[str]  # expectations that do not hold
    lines: Sequence[Line]
    nodes: Mapping[str, Mapping[str, Any]]
    instances: Mapping[str, Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    moved: Sequence[str]  # instances that were started more than once or on another node
    executions: Sequence[Execution]  # in seconds of the time line
    zero: datetime  # its second 0 on the services' wall clock
    end_s: float

    def with_faults(self, faults: Sequence[str]) -> Outcome:
        """The same, with services that ended by an error of their own as failures."""
        return replace(
            self, failed=[*self.failed, *(f"a service failed: {fault}" for fault in faults)]
        )

    def with_double_runs(self, instances: Sequence[str]) -> Outcome:
        """The same, with what the guests' own disks prove as failures."""
        proven = [f"the disk of {name} proves that it ran twice" for name in instances]
        return replace(self, failed=[*self.failed, *proven])

    @property
    def came_back(self) -> Sequence[str]:
        """What was started again and executes at the end."""
        return [name for name in self.moved if self.judgement.histories[name].node is not None]

    @property
    def passed(self) -> bool:
        return not self.failed and not self.judgement.violations


@dataclass(slots=True, kw_only=True)
class Runner:
    """One run of one scenario."""

    cluster: Cluster
    scenario: Scenario
    on_line: Callable[[Line], None]
    on_picture: Callable[[Picture], None] | None  # None: nobody looks
    progress: Callable[[str], None]
    bring_up_limit_s: float = 120.0
    poll_s: float = 0.5
    at_action: Callable[[str], None] = lambda _text: None
    _zero_s: float = field(default=0.0, init=False)
    _watched: EventWatch = field(init=False)
    _operator: Operator = field(init=False)
    _events: list[Event] = field(default_factory=list, init=False)
    _lines: list[Line] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._watched = EventWatch(
            api=lambda: self.cluster.api, at_s=self._at_s, tell=self._tell_event
        )
        self._operator = Operator(shell=self.cluster, at_s=self._at_s, tell=self._tell)

    async def run(self) -> Outcome:
        """Bring up, live through, judge. Raises LabFailed when the cluster does not come up."""
        await self.bring_up()
        self._zero_s, self._watched.zero = self._now_s(), self.cluster.now()
        await self._watched.skip()
        watcher = asyncio.create_task(self._watch(), name="watch the cluster")
        try:
            for step in self.scenario.steps:
                await self._until(watcher, step.at_s)
                await self._act(step)
        finally:
            await self._operator.leave()
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        return await self._judge()

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def _at_s(self) -> float:
        return self._now_s() - self._zero_s

    async def _until(self, watcher: asyncio.Task[None], at_s: float) -> None:
        """Wait for a moment of the time line; a watcher that fails ends the run."""
        pause_s = self._zero_s + at_s - self._now_s()
        if pause_s > 0:
            done, _ = await asyncio.wait({watcher}, timeout=pause_s)
            if done:
                watcher.result()

    async def _act(self, step: Step) -> None:
        if isinstance(step.action, End):
            return
        await self._watched.before(step.action)
        self._tell(Line(at_s=self._at_s(), who="lab", what=step.text))
        self.at_action(step.text)
        if isinstance(step.action, Command):
            self._operator.types(step.text, step.action)
        else:
            await self.cluster.act(step.action)

    # -- bringing the cluster up -------------------------------------------------------------

    async def bring_up(self) -> None:
        """Until every node is up and every instance runs. Raises LabFailed when they do not."""
        document = self.scenario.document
        self.progress(f"enrolling {len(document.nodes)} nodes")
        for name, node in document.nodes.items():
            labels = {**node.labels, ON_LABEL: name}
            body = {**node.manifest(), "name": name, "labels": labels}
            power = self.cluster.power_of(name, node)
            if power is not None:
                body["power"] = dict(power)
            enrolment = await self._call("POST", "/v1/nodes", body)
            await self.cluster.enrolled(name, enrolment["credentials"])
        for name, node in document.nodes.items():
            if node.running:
                await self.cluster.act(Power(node=name, on=True))
        running = [name for name, node in document.nodes.items() if node.running]
        await self._wait(f"{len(running)} nodes to be up", self._nodes_are_up, running)
        self.progress(f"{len(running)} nodes are up")
        if document.pools or document.instances:
            await self._create()

    async def _create(self) -> None:
        document = self.scenario.document
        pools = {name: pool.manifest() for name, pool in document.pools.items()}
        final: dict[str, dict[str, Any]] = {}
        first: dict[str, dict[str, Any]] = {}
        for name, instance in document.instances.items():
            manifest = instance.manifest()
            if not instance.disks and (disks := self.cluster.disks_of(name)):
                manifest["disks"] = [dict(disk) for disk in disks]
            final[name] = manifest
            selector = {ON_LABEL: instance.on} if instance.on else {}
            first[name] = {**manifest, "node_selector": {**instance.node_selector, **selector}}
        if first:
            self.progress(f"starting {len(first)} instances")
        await self._call("POST", "/v1/apply", {"pools": pools, "instances": first})
        await self._wait(f"{len(first)} instances to run", self._instances_run, self._wanted())
        if final != first:
            await self._call("POST", "/v1/apply", {"instances": final})
        if first:
            self.progress(f"{len(first)} instances run")

    def _wanted(self) -> list[str]:
        """Instances that should run, by name."""
        return [
            name
            for name, instance in self.scenario.document.instances.items()
            if instance.run_strategy is not RunStrategy.HALTED
        ]

    async def _wait(
        self,
        what: str,
        holds: Callable[[Sequence[str]], Awaitable[list[str]]],
        names: Sequence[str],
    ) -> None:
        deadline_s = self._now_s() + self.bring_up_limit_s
        while missing := await holds(names):
            if self._now_s() > deadline_s:
                shown = "; ".join(missing[:10])
                raise LabFailed(
                    f"waited {self.bring_up_limit_s:.0f} s for {what}; missing: {shown}"
                )
            await asyncio.sleep(self.poll_s)

    async def _nodes_are_up(self, names: Sequence[str]) -> list[str]:
        states = {node["name"]: node["state"] for node in await self._list("nodes")}
        return [f"{name} is {states.get(name)}" for name in names if states.get(name) != "up"]

    async def _instances_run(self, names: Sequence[str]) -> list[str]:
        found = {item["name"]: item for item in await self._list("instances")}
        return [
            f"{name}: {found[name]['status'] if name in found else 'unknown'}"
            for name in names
            if name not in found or found[name]["phase"] != "running"
        ]

    # -- watching ------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            try:
                await self._watched.look()
                await self._draw()
            except ApiAway:
                pass  # perhaps on purpose; the next look finds what was missed
            await asyncio.sleep(self.poll_s)

    def _tell_event(self, event: Event, at_s: float) -> None:
        self._events.append(event)
        if line := narrate(event["name"], event["data"], at_s):
            self._tell(line)

    def _tell(self, line: Line) -> None:
        self._lines.append(line)
        self.on_line(line)

    async def _draw(self) -> None:
        if self.on_picture is None:
            return
        executions = await self._executions()
        states = {node["name"]: node["state"] for node in await self._list("nodes")}
        verdict = self._verdict(executions)
        alive = [life for life in executions if life.ended_s is None]
        nodes = []
        for name in sorted(self.scenario.document.nodes):
            power, network = self.cluster.hardware(name)
            nodes.append(
                NodeRow(
                    name=name,
                    state=states.get(name, "?"),
                    power=power,
                    network=network,
                    guests=sum(life.node == name for life in alive),
                )
            )
        instances = [
            InstanceRow(
                name=name,
                node=history.node or "",
                state="running" if history.node else "down",
                downtime_s=history.downtime_s,
            )
            for name, history in verdict.histories.items()
        ]
        self.on_picture(
            Picture(title=self.scenario.name, at_s=self._at_s(), nodes=nodes, instances=instances)
        )

    async def _executions(self) -> list[Execution]:
        """What executed, in seconds of the time line."""
        zero_s = self._zero_s
        return [
            replace(
                life,
                started_s=life.started_s - zero_s,
                ended_s=None if life.ended_s is None else life.ended_s - zero_s,
            )
            for life in await self.cluster.executions()
        ]

    # -- judging -------------------------------------------------------------------------------

    def _verdict(self, executions: Sequence[Execution]) -> Judgement:
        return judge(
            executions,
            should_run=self._wanted(),
            may_be_down=may_be_down(self.scenario.expectations),
            end_s=self._at_s(),
        )

    async def _judge(self) -> Outcome:
        try:
            return await self._judged()
        except ApiAway as error:
            raise LabFailed(f"at the end the api must answer: {error.message}") from error

    async def _judged(self) -> Outcome:
        await self._watched.look()
        await self._draw()
        executions = await self._executions()
        nodes = {node["name"]: node for node in await self._list("nodes")}
        instances = {item["name"]: item for item in await self._list("instances")}
        verdict = self._verdict(executions)
        running_on: dict[str, list[str]] = {}
        for life in executions:
            if life.ended_s is None:
                running_on.setdefault(life.instance, []).append(life.node)
        for name, item in instances.items():
            item["explain"] = await self._call("GET", f"/v1/instances/{name}/explain")
        found = Found(
            running_on=running_on,
            lives={name: history.starts for name, history in verdict.histories.items()},
            node_states={name: node["state"] for name, node in nodes.items()},
            reasons={name: item["status"] for name, item in instances.items()},
            events=self._events,
            violations=verdict.violations,
        )
        moved = [
            name
            for name in self.scenario.document.instances
            if name in verdict.histories and verdict.histories[name].starts > 1
        ]
        return Outcome(
            judgement=verdict,
            failed=[*failures(self.scenario.expectations, found), *self._operator.failed],
            lines=sorted(self._lines, key=lambda line: line.at_s),
            nodes=nodes,
            instances=instances,
            events=self._events,
            moved=moved,
            executions=executions,
            zero=self._watched.zero,
            end_s=self._at_s(),
        )

    async def _list(self, what: str) -> list[dict[str, Any]]:
        answer = await self._call("GET", f"/v1/{what}")
        found: list[dict[str, Any]] = answer["items"]
        return found

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        return await call(self.cluster.api, method, path, body)
