"""A BMC that proves nothing: the node ends blocked, nothing starts elsewhere, a person is told why.

Real Redfish, with the daemons, services and servers of the other acceptance tests. When the BMC is
well again the node is fenced by itself, and its instances run elsewhere, each once.
"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from evac_common.cli.output import Output
from evac_lab.scenario.timeline import BmcState
from tests.acceptance.cluster import SOURCE, Acceptance, until
from tests.acceptance.evacuating import not_recovered

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="session"),
]

INSTANCES = 3
BLOCKED_S = 60.0  # decided after 6 s, three tries of 5 s, and a machine that is busy
RECOVERED_S = 75.0  # the next try comes within 10 s


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (BmcState.OFF, "it did not answer: [Errno 111] Connection refused"),
        (BmcState.LIES, "though the order to power off was accepted"),
        (BmcState.WRONG, "belongs to system f0f0f0f0-0000-4000-8000-000000000000, not "),
    ],
)
async def test_a_bmc_that_proves_nothing_blocks_and_says_why(
    acceptance: Acceptance, state: BmcState, says: str
) -> None:
    cluster = acceptance.cluster
    await acceptance.make_whole()
    names = await acceptance.only(f"bmc-{state.value}", INSTANCES)

    await cluster.bmc(SOURCE, state)
    await cluster.network(SOURCE, on=False)
    await until("blocked", lambda: _not_blocked(acceptance), deadline_s=BLOCKED_S)

    assert await acceptance.running(names) == {name: [SOURCE] for name in names}
    assert says in await _evac(acceptance, "node", "show", SOURCE)
    told = await _evac(acceptance, "instance", "explain", names[0])
    assert says in told
    assert f"then `evac node confirm-down {SOURCE}`" in told

    await cluster.bmc(SOURCE, BmcState.ON)
    await until(
        "all running elsewhere", lambda: not_recovered(acceptance, names), deadline_s=RECOVERED_S
    )
    verdict = await acceptance.judged(names)
    assert not verdict.violations
    assert {verdict.histories[name].node for name in names}.isdisjoint({SOURCE, None})


async def _not_blocked(acceptance: Acceptance) -> list[str]:
    states = {node["name"]: node["state"] for node in await acceptance.list("nodes")}
    return [] if states[SOURCE] == "blocked" else [f"{SOURCE} is {states[SOURCE]}"]


async def _evac(acceptance: Acceptance, *argv: str) -> str:
    """What the operator's command prints, without line breaks."""
    said, errors = (Console(file=io.StringIO(), width=2000) for _ in range(2))
    code = await acceptance.cluster.evac(argv, Output(said, errors))
    assert isinstance(said.file, io.StringIO)
    assert code == 0, errors.file
    return " ".join(said.file.getvalue().split())
