"""kill -9 of each part in the middle of an evacuation: every instance runs exactly once.

Real RabbitMQ, PostgreSQL, services, daemons and IPMI; the hypervisors are simulated, each a process
whose own log is the evidence. A node with 30 instances is cut off the network, its guests run on
until its BMC ends the whole process group, and when the first run elsewhere the victim dies.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.acceptance.cluster import SOURCE, Acceptance, until
from tests.acceptance.evacuating import MIDDLE, first_moved, not_recovered

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="session"),
]

INSTANCES = 30
RECOVERED_S = 60.0


@pytest.mark.parametrize("victim", ["api", "scheduler", "monitor", "compute", "broker", "database"])
async def test_every_instance_runs_exactly_once(acceptance: Acceptance, victim: str) -> None:
    cluster = acceptance.cluster
    await acceptance.make_whole()
    names = await acceptance.only(victim, INSTANCES)

    await cluster.network(SOURCE, on=False)
    moved = await first_moved(acceptance, names)
    target, _ = Counter(moved.values()).most_common(1)[0]
    await cluster.kill(victim, target if victim == "compute" else None)

    assert MIDDLE <= len(moved) < INSTANCES, "the victim must die in the middle"
    await until(
        f"all running elsewhere after {victim} was killed",
        lambda: not_recovered(acceptance, names),
        deadline_s=RECOVERED_S,
    )
    verdict = await acceptance.judged(names)
    assert not verdict.violations
    assert {verdict.histories[name].node for name in names}.isdisjoint({SOURCE, None})
    assert not cluster.nodes[SOURCE].is_on(), "fencing cuts the power of the whole node"
