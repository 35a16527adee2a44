"""Whatever is published into evac's queues ends among the dead letters, and the services go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import aio_pika
import pytest
import pytest_asyncio
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelPreconditionFailed

from evac_common.bus import topology
from evac_common.messages import commands, reports, requests
from evac_common.messages.codec import BODY_BYTES_MAX, encode
from evac_common.messages.examples import example, example_envelope
from evac_common.messages.registry import Message
from evac_lab.real.controllers import SERVICES
from tests.acceptance.cluster import Acceptance

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="session"),
]

DEAD_S = 20.0
ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """One message that must not be believed."""

    name: str
    headers: dict[str, Any]
    body: bytes
    content_type: str = "application/msgpack"
    user_id: str | None = ADMIN


def bad_messages(cls: type[Message]) -> list[Bad]:
    """Of a queue's own kind of message; all but the last are wrong whoever sends them."""
    wire = encode(example(cls), example_envelope(cls))
    good = Bad(name="wrong sender", headers=dict(wire.headers), body=wire.body)
    type_key = next(key for key, value in good.headers.items() if value == cls.type())
    version = cls.type().rpartition(".v")[0] + ".v99"
    return [
        replace(good, name="garbage", body=b"\xc1\xff not msgpack"),
        replace(good, name="no body", body=b""),
        replace(good, name="a list", body=b"\x93\x01\x02\x03"),
        replace(good, name="text", content_type="text/plain"),
        replace(good, name="no headers", headers={}),
        replace(good, name="too large", body=wire.body + bytes(BODY_BYTES_MAX)),
        replace(good, name="wrong version", headers={**good.headers, type_key: version}),
        replace(good, name="no sender", user_id=None),
        good,
    ]


@pytest_asyncio.fixture(loop_scope="session")
async def channel(acceptance: Acceptance) -> AsyncIterator[AbstractChannel]:
    """Of the broker's administrator, who may write into every queue and is nobody for evac."""
    await acceptance.make_whole()
    connection = await aio_pika.connect(acceptance.cluster.plane.site.broker.amqp_url)
    async with connection:
        channel = await connection.channel(on_return_raises=True)
        yield channel


async def test_bad_messages_end_among_the_dead_letters_and_the_services_go_on(
    acceptance: Acceptance, channel: AbstractChannel
) -> None:
    plane, nodes = acceptance.cluster.plane, acceptance.cluster.nodes
    before = [plane.process(service) for service in SERVICES] + [n.daemon() for n in nodes.values()]
    ids = {node["name"]: node["id"] for node in await acceptance.list("nodes")}
    targets: dict[str, type[Message]] = {
        topology.SCHEDULER_REPORTS.name: reports.Started,
        topology.MONITOR_REPORTS.name: reports.Registered,
        topology.command_queue(ids["n2"]).name: commands.Start,
        topology.API_REQUESTS.name: requests.StartInstance,
    }
    sent = {}
    for queue, cls in targets.items():
        # Anybody but a node may send a request; that it names nothing known is another matter.
        cases = bad_messages(cls)[:-1] if queue == topology.API_REQUESTS.name else bad_messages(cls)
        for bad in cases:
            sent[f"{queue}/{bad.name}"] = queue
            await _publish(channel, queue, bad, f"{queue}/{bad.name}")

    assert await _dead(channel, set(sent)) == sent
    assert before == [
        *(plane.process(service) for service in SERVICES),
        *(node.daemon() for node in nodes.values()),
    ]
    await plane.wait_ready()
    assert await acceptance.nodes_not_up() == []
    (name,) = await acceptance.only("after", 1)
    assert not (await acceptance.judged([name])).violations


async def test_the_broker_itself_refuses_a_forged_sender(
    acceptance: Acceptance, channel: AbstractChannel
) -> None:
    bad = replace(bad_messages(reports.Started)[-1], user_id="evac-scheduler")

    with pytest.raises(ChannelPreconditionFailed, match="user_id"):
        await _publish(channel, topology.SCHEDULER_REPORTS.name, bad, "forged")


async def _publish(channel: AbstractChannel, queue: str, bad: Bad, message_id: str) -> None:
    message = aio_pika.Message(
        bad.body,
        headers=bad.headers,
        content_type=bad.content_type,
        user_id=bad.user_id,
        message_id=message_id,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )
    await channel.default_exchange.publish(message, routing_key=queue)


async def _dead(channel: AbstractChannel, wanted: set[str]) -> dict[str, str]:
    """The queues from which our messages died, as soon as all have; by message id."""
    found: dict[str, str] = {}
    queue = await channel.get_queue(topology.DEAD.name, ensure=True)
    ends_s = asyncio.get_running_loop().time() + DEAD_S
    while wanted - found.keys() and asyncio.get_running_loop().time() < ends_s:
        message = await queue.get(fail=False)
        if message is None:
            await asyncio.sleep(0.1)
            continue
        await message.ack()
        if message.message_id in wanted:
            deaths: Any = message.headers["x-death"]
            assert deaths[0]["reason"] == "rejected"
            found[str(message.message_id)] = deaths[0]["queue"]
    return found
