"""From deliveries to typed messages: the one place that decides whether a message may be believed.

Who may send a message follows from its declared writer: a report or a heartbeat must come from the
broker user of the node in its body, whatever a controller writes from that controller's user, a
request from any user the broker vouches for. What is not believed is never handled: it goes to the
dead-letter exchange (heartbeats: nowhere), with its digest in the log and a count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from prometheus_client import Counter

from evac_common.bus.port import Delivery, Handler, Outgoing, Verdict
from evac_common.errors import DecodeError, UnknownVersion
from evac_common.messages.codec import BODY_BYTES_MAX, Envelope, decode, encode
from evac_common.messages.registry import Family, Message
from evac_common.model.identity import API_USER, MONITOR_USER, SCHEDULER_USER, node_user

REFUSED = Counter(
    "evac_bus_messages_refused_total", "Messages that were not believed, by reason.", ["why"]
)

TypedHandler = Callable[[Envelope, Any], Awaitable[Verdict]]

_CONTROLLERS: Final = {"api": API_USER, "scheduler": SCHEDULER_USER, "monitor": MONITOR_USER}


def sender_problem(message: Message, user_id: str | None) -> str | None:
    """Why this user may not have sent this message; None when it may."""
    if user_id is None:
        return "it carries no user_id that the broker vouches for"
    if message.writer == "tools":
        return None
    if message.writer == "compute":
        expected = node_user(str(getattr(message, "node_id", "")))
    else:
        expected = _CONTROLLERS[message.writer]
    return None if user_id == expected else f"user {user_id} is not {expected}"


def receive(handlers: Mapping[type[Message], TypedHandler]) -> Handler:
    """A handler for deliveries that calls the handler of the message's class.

    Undecodable, oversized or over-nested bodies, unknown versions, classes without a handler, and
    messages of the wrong sender are refused.
    """

    async def handle(delivery: Delivery) -> Verdict:
        try:
            envelope, message = decode(delivery.headers, delivery.content_type, delivery.body)
        except DecodeError as error:
            return refuse(delivery, _kind(error, delivery), error.message)
        if (problem := sender_problem(message, delivery.user_id)) is not None:
            return refuse(delivery, "sender", problem)
        handler = handlers.get(type(message))
        if handler is None:
            return refuse(delivery, "unexpected", f"{message.type()} is not for this queue")
        return await handler(envelope, message)

    return handle


def refuse(delivery: Delivery, why: str, detail: str) -> Verdict:
    """Log, count and give up a delivery. The body is named by its digest, never shown."""
    REFUSED.labels(why).inc()
    structlog.get_logger().warning(
        "message refused",
        why=detail,
        digest=hashlib.sha256(delivery.body).hexdigest()[:16],
        size_bytes=len(delivery.body),
        exchange=delivery.exchange,
        routing_key=delivery.routing_key,
        user_id=delivery.user_id,
    )
    # A dead heartbeat is worth nothing to anybody.
    return Verdict.ACK if delivery.exchange == Family.HEARTBEAT.exchange else Verdict.REJECT


def _kind(error: DecodeError, delivery: Delivery) -> str:
    if isinstance(error, UnknownVersion):
        return "version"
    return "size" if len(delivery.body) > BODY_BYTES_MAX else "undecodable"


def outgoing(message: Message, envelope: Envelope) -> Outgoing:
    """What the bus is given to publish. Heartbeats are fire-and-forget, all else is confirmed."""
    wire = encode(message, envelope)
    lasting = message.family is not Family.HEARTBEAT
    return Outgoing(
        exchange=message.family.exchange,
        routing_key=message.routing_key(),
        headers=wire.headers,
        content_type=wire.content_type,
        body=wire.body,
        message_id=envelope.id,
        confirm=lasting,
        mandatory=lasting,
    )
