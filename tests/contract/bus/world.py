"""What the contract needs around a bus: a broker that can be killed, links that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from evac_common.bus.admin import BrokerAdmin
from evac_common.bus.port import Bus, Delivery, Outgoing, Verdict
from evac_common.bus.timings import BusTimings
from evac_common.errors import BusUnavailable, Unroutable

DEADLINE_S = 40.0  # only a broken bus or a very busy machine comes near it


class World(Protocol):
    """One broker, fresh for each test, with the controllers' users on it."""

    timings: BusTimings

    @property
    def admin(self) -> BrokerAdmin: ...

    def bus(self, user: str, *, claims: str | None = "", careful: bool = False) -> Bus:
        """A bus for a user that exists (or not); not running yet.

        `careful`: as the services have it, it refuses by itself what the broker would refuse.
        """

    async def kill(self) -> None:
        """kill -9 of the broker."""

    async def restart(self) -> None: ...

    def cut(self, user: str) -> None:
        """Nothing passes between the user's buses and the broker, and nobody is told."""

    def heal(self, user: str) -> None: ...

    async def alarm(self, *, on: bool) -> None:
        """The broker's memory alarm."""


@asynccontextmanager
async def running(*buses: Bus) -> AsyncIterator[None]:
    """Run the buses, connected, for as long as the block lasts."""
    tasks = [asyncio.create_task(bus.run()) for bus in buses]
    try:
        for bus in buses:
            async with asyncio.timeout(DEADLINE_S):
                await bus.wait_connected()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def eventually(claim: Callable[[], bool], *, deadline_s: float = DEADLINE_S) -> None:
    """Wait until the claim holds; the deadline fails the test."""
    async with asyncio.timeout(deadline_s):
        while not claim():
            await asyncio.sleep(0.01)


async def until(act: Callable[[], Awaitable[bool]], *, deadline_s: float = DEADLINE_S) -> None:
    """Try again and again until it answers True; the deadline fails the test."""
    async with asyncio.timeout(deadline_s):
        while not await act():
            await asyncio.sleep(0.02)


async def accepted(bus: Bus, outgoing: Outgoing) -> bool:
    """Whether the bus takes this message now; what is not there yet may come."""
    try:
        await bus.publish(outgoing)
    except (BusUnavailable, Unroutable):
        return False
    return True


class Inbox:
    """A handler that keeps what came and answers what it is told to."""

    def __init__(self, verdict: Verdict = Verdict.ACK) -> None:
        self.verdict = verdict
        self.got: list[Delivery] = []

    async def __call__(self, delivery: Delivery) -> Verdict:
        self.got.append(delivery)
        return self.verdict

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.got]


class Holding(Inbox):
    """A handler that never comes to an end by itself."""

    async def __call__(self, delivery: Delivery) -> Verdict:
        self.got.append(delivery)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets this event")


def message(
    exchange: str, key: str, body: bytes = b"x", *, confirm: bool = True, mandatory: bool = True
) -> Outgoing:
    return Outgoing(
        exchange=exchange,
        routing_key=key,
        headers={"ce-id": "1"},
        content_type="application/msgpack",
        body=body,
        message_id=body.hex() or "none",
        confirm=confirm,
        mandatory=mandatory,
    )
