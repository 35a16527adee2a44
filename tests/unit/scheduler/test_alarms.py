"""What a person must look at: a declaration nobody can read, an item that stays open."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from evac_common.store import intent
from tests.unit.scheduler.cluster import Cluster, id_of


async def _declare(cluster: Cluster, name: str, **values: object) -> None:
    spec = intent.instance_spec
    async with cluster.store.transaction() as tx:
        await tx.execute(update(spec).where(spec.c.id == id_of(name)).values(**values))


BROKEN = [
    {"manifest": {"vcpus": "many", "memory_mib": 1024}},
    {"manifest": {"vcpus": 1, "memory_mib": 1024, "disks": [{"volume": 7}]}},
    {"manifest": ["not", "a", "mapping"]},
    {"run_strategy": "WhenMoonIsFull"},
]


@pytest.mark.parametrize("broken", BROKEN, ids=str)
async def test_one_declaration_that_cannot_be_read_holds_up_nobody_else(
    cluster: Cluster, broken: dict[str, object]
) -> None:
    await cluster.node("n1")
    await cluster.node("n2")
    await cluster.instance("bad")
    await cluster.instance("good")
    await cluster.settle()
    owner = (await cluster.ledger("bad"))[0]["node_id"]
    await _declare(cluster, "bad", **broken)

    await cluster.prove_dead("n1")
    await cluster.prove_dead("n2")
    await cluster.node("n3")
    await cluster.settle()

    assert (await cluster.status("good"))["phase"] == "running"
    assert len(await cluster.ledger("good")) == 2
    assert len(await cluster.ledger("bad")) == 1, "not started, and not given up"
    assert [item["state"] for item in await cluster.items("bad")] == ["pending"]
    (alarm,) = await cluster.events("instance.unreadable")
    assert alarm["alarm"]
    assert "cannot be read" in alarm["body"]["why"]
    assert owner in (id_of("n1"), id_of("n2"))

    await _declare(cluster, "bad", manifest={"vcpus": 1, "memory_mib": 1024}, run_strategy="Always")
    await cluster.settle()
    assert (await cluster.status("bad"))["phase"] == "running"


@pytest.mark.parametrize("broken", BROKEN, ids=str)
async def test_what_runs_and_cannot_be_read_is_neither_stopped_nor_forgotten(
    cluster: Cluster, broken: dict[str, object]
) -> None:
    await cluster.node("n1")
    await cluster.instance("bad")
    await cluster.settle()

    await _declare(cluster, "bad", **broken)
    await cluster.instance("next")
    await cluster.settle()

    assert (await cluster.status("bad"))["phase"] == "running"
    assert (await cluster.status("next"))["phase"] == "running"
    assert await cluster.events("instance.stopped") == []


async def test_an_item_that_stays_open_is_alarmed_after_minutes_and_again_after_more(
    cluster: Cluster,
) -> None:
    await cluster.node("n1")
    await cluster.instance("web")
    await cluster.settle()
    await cluster.prove_dead("n1")

    alarms = []
    for minute in range(40):
        cluster.hand.at_s = minute * 60.0
        await cluster.scheduler.sweep()
        alarms.append(len(await cluster.events("instance.waiting")))

    assert [alarms.index(count) for count in (1, 2)] == [5, 35]
    assert alarms[-1] == 2
    (first, _) = await cluster.events("instance.waiting")
    assert first["alarm"]
    assert first["body"]["waits_s"] == 300.0
    assert "no node can take it" in first["body"]["why"]

    await cluster.node("n2")
    await cluster.settle()
    cluster.hand.at_s = 4 * 3600.0
    await cluster.scheduler.sweep()
    assert len(await cluster.events("instance.waiting")) == 2
