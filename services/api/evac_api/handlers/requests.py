"""Requests from the bus: what REST can do, at the same desk; the outcome is an `operation.*` event.

`request_id` is the idempotency key: a request is carried out once, however often it is delivered.
"""

from __future__ import annotations

import hashlib

import structlog

from evac_api.core.refusals import Invalid, Refusal
from evac_api.core.verbs import NodeVerb
from evac_api.ports import Caller, Desk
from evac_common.bus.inbox import receive
from evac_common.bus.port import Delivery, Verdict
from evac_common.errors import Conflict
from evac_common.messages import requests
from evac_common.messages.codec import Envelope

_VERBS = {
    "node.report_down": NodeVerb.FENCE,
    "node.fence": NodeVerb.FENCE,
    "node.evacuate": NodeVerb.EVACUATE,
}


_KINDS = (
    requests.ReportNodeDown,
    requests.FenceNode,
    requests.EvacuateNode,
    requests.StartInstance,
    requests.StopInstance,
)


class Requests:
    """One request: carry it out, or record why not. A retryable failure leaves it in the queue."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def receive(self, delivery: Delivery) -> Verdict:
        """For the queue of requests; what is no request of a known user is refused."""

        async def known(envelope: Envelope, message: requests.Request) -> Verdict:
            return await self.carry_out(message, delivery.user_id)

        return await receive(dict.fromkeys(_KINDS, known))(delivery)

    async def carry_out(self, message: requests.Request, user: str | None) -> Verdict:
        actor = f"bus:{user or 'unknown'}"
        caller = Caller(
            actor=actor,
            key=message.request_id,
            digest=hashlib.sha256(
                f"{message.type()}\n{message.model_dump_json()}".encode()
            ).hexdigest(),
            request_id=message.request_id,
        )
        try:
            _check(message)
            await self._do(caller, message)
        except (Refusal, Conflict) as refusal:
            structlog.get_logger().info(
                "request refused", message_type=message.type(), why=refusal.message
            )
            verb, target = _asked(message)
            await self._desk.operations.refused(caller, verb, target, refusal.message)
        return Verdict.ACK

    async def _do(self, caller: Caller, message: requests.Request) -> None:
        match message:
            case requests.OfNode():
                reason = message.reason
                if isinstance(message, requests.ReportNodeDown):
                    reason = f"reported down from outside: {reason}"
                await self._desk.nodes.wish(caller, message.node, _VERBS[message.name], reason)
            case requests.OfInstance():
                running = isinstance(message, requests.StartInstance)
                await self._desk.instances.set_running(
                    caller,
                    message.instance,
                    running=running,
                    reason=f"{'started' if running else 'stopped'} by {caller.actor}",
                    generation=None,
                )
            case _:
                raise TypeError(f"{message.type()} is a request that nobody carries out")


def _check(message: requests.Request) -> None:
    """Free text is stored and shown to people: a database cannot keep a NUL."""
    if isinstance(message, requests.OfNode) and not message.reason.replace("\n", "").isprintable():
        raise Invalid.one("reason", None, "must not contain control characters")


def _asked(message: requests.Request) -> tuple[str, str]:
    """Verb and target of the operation that records a refusal."""
    verb = f"node.{_VERBS[message.name].value}" if message.name in _VERBS else message.name
    return verb, message.subject() or ""
