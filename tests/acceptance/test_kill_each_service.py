"""kill -9 of each part in the middle of an evacuation: every instance runs exactly once.

Real RabbitMQ, PostgreSQL, services, daemons and IPMI; the hypervisors are simulated, each a process
whose own log is the evidence. A node with 30 instances is cut off the network, its guests run on
until its BMC ends the whole process group, and when the first run elsewhere the victim dies.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.acceptance.cluster import SOURCE, Acceptance, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="session"),
]

INSTANCES = 30
MIDDLE = 5
EVACUATION_BEGINS_S = 40.0
RECOVERED_S = 60.0


@pytest.mark.parametrize("victim", ["api", "scheduler", "monitor", "compute", "broker", "database"])
async def test_every_instance_runs_exactly_once(acceptance: Acceptance, victim: str) -> None:
    cluster = acceptance.cluster
    await acceptance.make_whole()
    names = await acceptance.only(victim, INSTANCES)

    await cluster.network(SOURCE, on=False)
    moved = await _first_moved(acceptance, names)
    target, _ = Counter(moved.values()).most_common(1)[0]
    await cluster.kill(victim, target if victim == "compute" else None)

    assert MIDDLE <= len(moved) < INSTANCES, "the victim must die in the middle"
    await until(
        f"all running elsewhere after {victim} was killed",
        lambda: _not_recovered(acceptance, names),
        deadline_s=RECOVERED_S,
    )
    verdict = await acceptance.judged(names)
    assert not verdict.violations
    assert {verdict.histories[name].node for name in names}.isdisjoint({SOURCE, None})
    assert not cluster.nodes[SOURCE].is_on(), "fencing cuts the power of the whole node"


async def _first_moved(acceptance: Acceptance, names: list[str]) -> dict[str, str]:
    """Wait until some execute elsewhere; which, and where."""
    moved: dict[str, str] = {}

    async def too_few() -> list[str]:
        for name, nodes in (await acceptance.running(names)).items():
            moved.update((name, node) for node in nodes if node != SOURCE)
        return [] if len(moved) >= MIDDLE else [f"{len(moved)} of {MIDDLE} run elsewhere"]

    await until("the evacuation begins", too_few, deadline_s=EVACUATION_BEGINS_S)
    return moved


async def _not_recovered(acceptance: Acceptance, names: list[str]) -> list[str]:
    """What is missing: an execution by the hypervisors' logs, or evac's knowledge of it."""
    where = await acceptance.running(names)
    known = {
        item["name"]: item["node"]
        for item in await acceptance.list("instances")
        if item["phase"] == "running" and item["certain"]
    }
    return [
        f"{name} executes on {nodes or 'none'}, evac says {known.get(name)}"
        for name, nodes in where.items()
        if len(nodes) != 1 or nodes != [known.get(name)]
    ]
