"""A memory alarm on the real broker in the middle of an evacuation.

The broker blocks every connection that publishes, cluster-wide, for longer than the monitor's whole
patience; what was published meanwhile hangs and is delivered when the alarm ends, long after its
senders gave up and sent it again (docs/explanation/safety.md: a message is only latency).
"""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from evac_lab.real.controllers import SERVICES
from tests.acceptance.cluster import SOURCE, Acceptance, until
from tests.acceptance.evacuating import first_moved, not_recovered

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="session"),
]

INSTANCES: Final = 30
ALARM_S: Final = 30.0  # five times fence_after_s of this profile
RECOVERED_S: Final = 90.0


async def test_an_alarm_in_the_middle_of_an_evacuation_delays_it_and_nothing_else(
    acceptance: Acceptance,
) -> None:
    cluster = acceptance.cluster
    await acceptance.make_whole()
    names = await acceptance.only("alarm", INSTANCES)
    begun = await _last_event(acceptance)
    processes = {service: cluster.plane.process(service) for service in SERVICES}

    await cluster.network(SOURCE, on=False)
    moved = await first_moved(acceptance, names)
    await cluster.plane.site.broker.set_alarm(on=True)
    try:
        assert len(moved) < INSTANCES, "the alarm must come in the middle"
        await asyncio.sleep(ALARM_S)
        assert (await cluster.api.get("/v1/instances")).status_code == 200, "the api goes on"
    finally:
        await cluster.plane.site.broker.set_alarm(on=False)

    await until(
        "all run elsewhere after the alarm",
        lambda: not_recovered(acceptance, names),
        deadline_s=RECOVERED_S,
    )
    verdict = await acceptance.judged(names)
    assert not verdict.violations
    assert {verdict.histories[name].node for name in names}.isdisjoint({SOURCE, None})
    down = await _down_since(acceptance, begun)
    assert down == [SOURCE], "an alarm silences everybody: nobody else may be cut off for it"
    assert {service: cluster.plane.process(service) for service in SERVICES} == processes, (
        "no service hung so that it had to be restarted"
    )


async def _last_event(acceptance: Acceptance) -> int:
    events = (await acceptance.call("GET", "/v1/events?limit=1"))["items"]
    return max((event["sequence"] for event in events), default=0)


async def _down_since(acceptance: Acceptance, sequence: int) -> list[str]:
    found = await acceptance.call("GET", f"/v1/events?after={sequence}&limit=500")
    return [event["data"]["node"] for event in found["items"] if event["name"] == "node.down"]
