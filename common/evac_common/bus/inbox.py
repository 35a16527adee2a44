"""From what the bus delivers to typed messages, and back: the one place where both meet.

Whatever arrives, a handler sees only a message of a known version from somebody who may send it.
Everything else goes to the dead letters; the log line has its digest, never its content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from prometheus_client import Counter

from evac_common.bus.port import Delivery, Handler, Outgoing, Verdict
from evac_common.errors import DecodeError, UnknownVersion
from evac_common.messages import catalogue  # noqa: F401 - every message must be known to decode it
from evac_common.messages.codec import BODY_BYTES_MAX, Envelope, decode, encode
from evac_common.messages.registry import Family, Message
from evac_common.model.identity import CONTROLLER_USERS, node_of_user, node_user

REFUSED: Final = Counter(
    "evac_bus_refused_total",
    "Messages that were not accepted, by family and reason.",
    ["family", "reason"],
)

_WHY_CHARS_MAX: Final = 300

#: Says why this user may not have sent this message; None: it may. `user_id` is the broker's word.
SenderRule = Callable[[Message, str], str | None]
TypedHandler = Callable[[Envelope, Any], Awaitable[Verdict]]


def node_of_body(message: Message, user_id: str) -> str | None:
    """For reports and heartbeats: the user is the node that the body speaks for."""
    claimed = getattr(message, "node_id", None)
    if claimed is not None and user_id == node_user(claimed):
        return None
    return "the sender is not the node of the body"


def its_writer(message: Message, user_id: str) -> str | None:
    """For commands: the user is the one service that writes this message."""
    if user_id == f"evac-{message.writer}":
        return None
    return f"only evac-{message.writer} sends this"


def controllers_only(message: Message, user_id: str) -> str | None:
    """For events between services: any of the controllers."""
    return None if user_id in CONTROLLER_USERS else "the sender is not a controller"


def any_known_user(message: Message, user_id: str) -> str | None:
    """For requests: any user of the broker that is not a node."""
    return "nodes send no requests" if node_of_user(user_id) is not None else None


def declared_writer(message: Message, user_id: str) -> str | None:
    """The rule for everything: whoever the message's class declares as its writer."""
    match message.writer:
        case "compute":
            return node_of_body(message, user_id)
        case "tools":
            return any_known_user(message, user_id)
        case _:
            return its_writer(message, user_id)


def receive(
    handlers: Mapping[type[Any], TypedHandler],
    *,
    sender: SenderRule = declared_writer,
) -> Handler:
    """A handler for `Bus.consume` that checks a delivery and calls the handler of its type.

    What fails a check is logged with its digest, counted by reason and rejected; heartbeats, which
    come by the thousand, are dropped and counted, not logged. A message of a known type without a
    handler is nobody's business here and is acked.
    """

    async def handle(delivery: Delivery) -> Verdict:
        try:
            envelope, message = decode(delivery.headers, delivery.content_type, delivery.body)
        except DecodeError as error:
            return refuse(delivery, _kind(delivery, error), str(error))
        if delivery.user_id is None:
            return refuse(delivery, "no_sender", "no user_id")
        why = sender(message, delivery.user_id)
        if why is not None:
            return refuse(delivery, "wrong_sender", why)
        handler = handlers.get(type(message))
        if handler is None:
            return Verdict.ACK
        with structlog.contextvars.bound_contextvars(message_type=message.type()):
            return await handler(envelope, message)

    return handle


def outgoing(message: Message, envelope: Envelope) -> Outgoing:
    """The message as the bus takes it. Raises ValueError when it breaks the limits of readers.

    Heartbeats are neither confirmed nor mandatory. Everything else is both, events too: the stream
    takes every event, and as long as it does not exist the event waits in its outbox.
    """
    wire = encode(message, envelope)
    is_kept = message.family is not Family.HEARTBEAT
    return Outgoing(
        exchange=message.family.exchange,
        routing_key=message.routing_key(),
        headers=wire.headers,
        content_type=wire.content_type,
        body=wire.body,
        message_id=envelope.id,
        confirm=is_kept,
        mandatory=is_kept,
    )


def _kind(delivery: Delivery, error: DecodeError) -> str:
    if len(delivery.body) > BODY_BYTES_MAX:
        return "too_large"
    return "unknown_version" if isinstance(error, UnknownVersion) else "undecodable"


def refuse(delivery: Delivery, reason: str, why: str) -> Verdict:
    """Count and log a delivery that is not accepted, by its digest; the verdict that ends it."""
    beat = delivery.exchange == Family.HEARTBEAT.exchange
    REFUSED.labels(delivery.exchange.removeprefix("evac."), reason).inc()
    if not beat:
        structlog.get_logger().warning(
            "message refused",
            reason=reason,
            why=why[:_WHY_CHARS_MAX],
            digest=hashlib.sha256(delivery.body).hexdigest()[:16],
            bytes=len(delivery.body),
            exchange=delivery.exchange,
            routing_key=delivery.routing_key,
            user_id=delivery.user_id,
        )
    return Verdict.ACK if beat else Verdict.REJECT
