"""A command from the bus: decode, journal, acknowledge. Everything else happens in lanes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from prometheus_client import Counter

from evac_common.bus.port import Delivery, Verdict
from evac_common.errors import DecodeError
from evac_common.messages.codec import decode
from evac_common.messages.commands import Command
from evac_common.model.identity import CONTROLLER_USERS
from evac_compute.core.record import Accepted, Pending
from evac_compute.ports import JournalUnavailable
from evac_compute.state import Node

REJECTED = Counter(
    "evac_compute_rejected_total", "Deliveries that can never be acceptable.", ["why"]
)


class Commands:
    """The handler of the node's command queue. `carry_out` takes over what was journalled."""

    def __init__(self, node: Node, carry_out: Callable[[Pending], None]) -> None:
        self._node = node
        self._carry_out = carry_out

    async def __call__(self, delivery: Delivery) -> Verdict:
        try:
            _, message = decode(delivery.headers, delivery.content_type, delivery.body)
        except DecodeError as error:
            return self._reject(delivery, "undecodable", str(error))
        if not isinstance(message, Command):
            return self._reject(delivery, "not_a_command", message.type())
        if delivery.user_id is None or delivery.user_id not in CONTROLLER_USERS:
            return self._reject(delivery, "sender", f"user {delivery.user_id!r} commands no node")
        if message.node_id != self._node.identity.node_id:
            return self._reject(delivery, "other_node", f"for node {message.node_id}")
        if message.command_id in self._node.recorded.pending:
            return Verdict.ACK  # taken over already, and not settled yet
        try:
            self._node.write(Accepted(command=message, sender=delivery.user_id))
        except JournalUnavailable as error:
            self._node.log.error("journal takes nothing", why=str(error))
            return Verdict.RETRY
        self._carry_out(Pending(command=message, sender=delivery.user_id))
        return Verdict.ACK

    def _reject(self, delivery: Delivery, why: str, detail: str) -> Verdict:
        REJECTED.labels(why).inc()
        self._node.log.warning(
            "command rejected",
            why=detail,
            digest=hashlib.sha256(delivery.body).hexdigest()[:16],
            queue=delivery.routing_key,
        )
        return Verdict.REJECT
