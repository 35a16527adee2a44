"""Every exchange and queue evac declares (applications may bind queues of their own)."""

from __future__ import annotations

from typing import Final

from evac_common.bus.port import Binding, Queue, QueueKind
from evac_common.messages.registry import Family
from evac_common.model.identity import node_user

DEAD_EXCHANGE: Final = "evac.dead"
# Carries nothing but each controller's canary to itself: the proof that publishing still works.
CANARY_EXCHANGE: Final = "evac.canary"
EXCHANGES: Final = (*(family.exchange for family in Family), DEAD_EXCHANGE, CANARY_EXCHANGE)

EVENTS_MAX_AGE_S: Final = 7 * 24 * 3600
HEARTBEAT_TTL_S: Final = 6.0  # three beats: an older one says nothing about now

_REPORT = Family.REPORT.exchange
_EVENT = Family.EVENT.exchange

SCHEDULER_REPORTS: Final = Queue(
    name="evac.scheduler.reports",
    kind=QueueKind.QUORUM,
    bindings=tuple(
        Binding(exchange=_REPORT, routing_key=f"*.{kind}")
        for kind in (
            "started",
            "start_failed",
            "start_refused",
            "stopped",
            "exited",
            "destroyed",
            "inventory",
            "command_refused",
        )
    ),
    length_max=100_000,
)
MONITOR_REPORTS: Final = Queue(
    name="evac.monitor.reports",
    kind=QueueKind.QUORUM,
    bindings=tuple(
        Binding(exchange=_REPORT, routing_key=f"*.{kind}")
        for kind in ("registered", "session_applied")
    ),
    length_max=100_000,
)
SCHEDULER_EVENTS: Final = Queue(
    name="evac.scheduler.events",
    kind=QueueKind.QUORUM,
    bindings=(
        Binding(exchange=_EVENT, routing_key="intent.#"),
        Binding(exchange=_EVENT, routing_key="node.#"),
    ),
    length_max=100_000,
)
MONITOR_EVENTS: Final = Queue(
    name="evac.monitor.events",
    kind=QueueKind.QUORUM,
    bindings=(
        Binding(exchange=_EVENT, routing_key="intent.node.#"),
        Binding(exchange=_EVENT, routing_key="intent.cluster.#"),
    ),
)
API_EVENTS: Final = Queue(
    name="evac.api.events",
    kind=QueueKind.QUORUM,
    bindings=(
        Binding(exchange=_EVENT, routing_key="node.#"),
        Binding(exchange=_EVENT, routing_key="instance.#"),
        Binding(exchange=_EVENT, routing_key="evacuation.#"),
        Binding(exchange=_EVENT, routing_key="cluster.#"),
    ),
    length_max=100_000,
)
API_REQUESTS: Final = Queue(
    name="evac.api.requests",
    kind=QueueKind.QUORUM,
    bindings=(Binding(exchange=Family.REQUEST.exchange, routing_key="#"),),
)
EVENT_STREAM: Final = Queue(
    name="evac.events",
    kind=QueueKind.STREAM,
    bindings=(Binding(exchange=_EVENT, routing_key="#"),),
    delivery_limit=None,
    dead_letter_exchange=None,
    max_age_s=EVENTS_MAX_AGE_S,
)
DEAD: Final = Queue(
    name="evac.dead",
    kind=QueueKind.QUORUM,
    bindings=(Binding(exchange=DEAD_EXCHANGE, routing_key="#"),),
    length_max=100_000,
    delivery_limit=None,
    dead_letter_exchange=None,
)

CONTROLLER_QUEUES: Final = (
    DEAD,
    EVENT_STREAM,
    SCHEDULER_REPORTS,
    MONITOR_REPORTS,
    SCHEDULER_EVENTS,
    MONITOR_EVENTS,
    API_EVENTS,
    API_REQUESTS,
)


def command_queue(node_id: str) -> Queue:
    """The queue of one node's commands: declared by the controllers, never by the node."""
    user = node_user(node_id)
    return Queue(
        name=f"evac.compute.{user}",
        kind=QueueKind.QUORUM,
        bindings=(Binding(exchange=Family.COMMAND.exchange, routing_key=f"compute.{user}.*"),),
        single_active_consumer=True,
    )


def heartbeat_queue(monitor: str) -> Queue:
    """A monitor's own view of the heartbeats, gone with its connection."""
    return Queue(
        name=f"evac.monitor.heartbeats.{monitor}",
        kind=QueueKind.EXCLUSIVE,
        bindings=(Binding(exchange=Family.HEARTBEAT.exchange, routing_key="#"),),
        length_max=5000,
        delivery_limit=None,
        message_ttl_s=HEARTBEAT_TTL_S,
        dead_letter_exchange=None,
    )
