"""One way to call the client library: whatever it raises comes out in evac's words."""

from __future__ import annotations

import asyncio

import pytest
from aio_pika.exceptions import AMQPConnectionError, ChannelInvalidStateError, DeliveryError
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionNotAllowed,
    ProbableAuthenticationError,
)
from pamqp import commands as spec

from evac_common.bus.rabbitmq.calls import within
from evac_common.bus.rabbitmq.session import with_heartbeat
from evac_common.bus.timings import BusTimings, backoff_s, retry_s
from evac_common.errors import BusRefused, BusUnavailable, EvacError, QueueFull, Unroutable


async def test_a_call_without_an_answer_is_unknown() -> None:
    with pytest.raises(BusUnavailable, match=r"publish: no answer in 0\.01 s"):
        async with within(0.01, "publish"):
            await asyncio.Event().wait()


async def test_a_cancellation_that_nobody_asked_for_is_a_lost_connection() -> None:
    in_flight: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(in_flight.cancel)
    with pytest.raises(BusUnavailable, match="the connection was lost"):
        async with within(1.0, "publish"):
            await in_flight


async def test_a_cancellation_that_was_asked_for_stays_one() -> None:
    async def call() -> None:
        async with within(1.0, "publish"):
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ChannelAccessRefused("no"), BusRefused),
        (ChannelPreconditionFailed("user_id"), BusRefused),
        (ProbableAuthenticationError("who?"), BusRefused),
        (ConnectionNotAllowed("vhost"), BusRefused),
        (ChannelNotFoundEntity("no queue"), Unroutable),
        (DeliveryError(None, spec.Basic.Nack(1)), QueueFull),
        (AMQPConnectionError("gone"), BusUnavailable),
        (ChannelInvalidStateError("closed"), BusUnavailable),
        (ConnectionResetError("reset"), BusUnavailable),
    ],
)
async def test_the_librarys_errors_in_our_words(raised: Exception, told: type[EvacError]) -> None:
    with pytest.raises(told) as caught:
        async with within(1.0, "call"):
            raise raised
    assert type(caught.value) is told
    assert caught.value.__cause__ is raised


def test_the_url_gets_our_heartbeat_and_keeps_its_secret() -> None:
    url = "amqps://evac-api:a%2Fb%40c@broker:5671/evac?cafile=/etc/ca.pem&heartbeat=60"
    assert with_heartbeat(url, 5) == (
        "amqps://evac-api:a%2Fb%40c@broker:5671/evac?cafile=%2Fetc%2Fca.pem&heartbeat=5"
    )


def test_pauses_grow_to_their_limits() -> None:
    timings = BusTimings()
    assert timings.dead_after_s == 18
    assert [backoff_s(count, 1.0, timings) for count in (0, 1, 3, 10)] == [1.0, 2.0, 8.0, 15.0]
    assert {backoff_s(count, 0.0, timings) for count in range(10)} == {0.5}
    fast = BusTimings(backoff_max_s=1.0)
    assert max(backoff_s(count, 1.0, fast) for count in range(50)) == 1.0
    # Ten returns, the delivery limit, outlast the restart of a database.
    assert sum(retry_s(returns, timings) for returns in range(10)) > 60
