"""What the parts of the contract share: queues for one test, questions to a bus."""

from __future__ import annotations

import itertools
from collections.abc import MutableMapping
from typing import Any

from evac_common.bus.port import Binding, Bus, Outgoing, Queue, QueueKind
from evac_common.errors import BusRefused, BusUnavailable, Unroutable
from evac_common.model.identity import (
    node_user,
)
from tests.contract.bus.world import (
    Inbox,
    World,
    accepted,
    eventually,
    message,
)

N1, N2 = "1" * 32, "2" * 32
EVENTS, REPORTS, COMMANDS, HEARTBEATS = (
    "evac.event",
    "evac.report",
    "evac.command",
    "evac.heartbeat",
)

numbers = itertools.count(1)


def quorum(key: str = "t.#", **rules: object) -> Queue:
    """A queue for one test, bound to the events."""
    return Queue(
        name=f"evac.scheduler.test-{next(numbers)}",
        kind=QueueKind.QUORUM,
        bindings=(Binding(exchange=EVENTS, routing_key=key),),
        **rules,  # type: ignore[arg-type] # the test names fields of Queue
    )


def exclusive(key: str = "t.#", **rules: object) -> Queue:
    return Queue(
        name=f"evac.monitor.test-{next(numbers)}",
        kind=QueueKind.EXCLUSIVE,
        bindings=(Binding(exchange=EVENTS, routing_key=key),),
        delivery_limit=None,
        dead_letter_exchange=None,
        **rules,  # type: ignore[arg-type] # the test names fields of Queue
    )


async def bus_of_node(world: World, node_id: str) -> Bus:
    await world.admin.create_node_user(node_id)
    return world.bus(node_user(node_id))


async def seen(bus: Bus, outgoing: Outgoing, inbox: Inbox) -> bool:
    """Publish, and whether the inbox has one of these yet."""
    await accepted(bus, outgoing)
    return outgoing.body in inbox.bodies


async def next_canary(bus: Bus) -> None:
    last_s = bus.health().canary_at_s or 0.0
    await eventually(lambda: (bus.health().canary_at_s or 0.0) > last_s)


async def is_unroutable(bus: Bus, outgoing: Outgoing) -> bool:
    try:
        await bus.publish(outgoing)
    except Unroutable:
        return True
    return False


async def is_refused(bus: Bus) -> bool:
    try:
        await bus.publish(message(REPORTS, "x"))
    except BusRefused:
        return True
    except BusUnavailable:
        return False
    return False


def sentences(logs: list[MutableMapping[str, Any]]) -> list[str]:
    return [line["event"] for line in logs]
