"""The inbox: a handler sees only messages it may trust; the rest is refused, counted and named."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
import structlog

from evac_common.bus.inbox import (
    REFUSED,
    SenderRule,
    any_known_user,
    controllers_only,
    declared_writer,
    its_writer,
    node_of_body,
    outgoing,
    receive,
)
from evac_common.bus.port import Delivery, Verdict
from evac_common.messages.codec import BODY_BYTES_MAX, Envelope
from evac_common.messages.commands import Session, Start
from evac_common.messages.events import NodeDown
from evac_common.messages.examples import example, example_envelope
from evac_common.messages.heartbeats import Heartbeat
from evac_common.messages.registry import Message
from evac_common.messages.reports import Registered, Started
from evac_common.messages.requests import FenceNode
from evac_common.model.identity import API_USER, MONITOR_USER, SCHEDULER_USER, node_user

NODE = node_user("0123456789abcdef0123456789abcdef")  # of the examples
OTHER = node_user("f" * 32)


def delivery(cls: type[Message], user_id: str | None) -> Delivery:
    sent = outgoing(example(cls), example_envelope(cls))
    return Delivery(
        exchange=sent.exchange,
        routing_key=sent.routing_key,
        headers=sent.headers,
        content_type=sent.content_type,
        body=sent.body,
        message_id=sent.message_id,
        user_id=user_id,
    )


class Seen:
    def __init__(self) -> None:
        self.messages: list[tuple[Envelope, Message]] = []

    async def __call__(self, envelope: Envelope, message: Any) -> Verdict:
        self.messages.append((envelope, message))
        return Verdict.ACK


def refused(exchange: str, reason: str) -> float:
    return float(REFUSED.labels(exchange, reason)._value.get())


@pytest.mark.parametrize(
    ("cls", "rule", "user"),
    [
        (Started, node_of_body, NODE),
        (Heartbeat, node_of_body, NODE),
        (Session, its_writer, MONITOR_USER),
        (Start, its_writer, SCHEDULER_USER),
        (NodeDown, controllers_only, MONITOR_USER),
        (FenceNode, any_known_user, "a-tool"),
        (Started, declared_writer, NODE),
        (Session, declared_writer, MONITOR_USER),
        (FenceNode, declared_writer, "a-tool"),
    ],
)
async def test_a_message_from_who_may_send_it_reaches_its_handler(
    cls: type[Message], rule: SenderRule, user: str
) -> None:
    seen = Seen()
    verdict = await receive({cls: seen}, sender=rule)(delivery(cls, user))
    assert verdict is Verdict.ACK
    assert seen.messages == [(example_envelope(cls), example(cls))]


@pytest.mark.parametrize(
    ("cls", "rule", "user"),
    [
        (Started, node_of_body, OTHER),
        (Started, node_of_body, SCHEDULER_USER),
        (NodeDown, node_of_body, NODE + "x"),
        (Session, its_writer, SCHEDULER_USER),
        (Start, its_writer, MONITOR_USER),
        (Start, its_writer, API_USER),
        (Start, its_writer, NODE),
        (NodeDown, controllers_only, NODE),
        (FenceNode, any_known_user, NODE),
        (Started, declared_writer, OTHER),
        (Session, declared_writer, SCHEDULER_USER),
        (NodeDown, declared_writer, SCHEDULER_USER),
        (FenceNode, declared_writer, NODE),
    ],
)
async def test_a_message_from_anybody_else_is_rejected(
    cls: type[Message], rule: SenderRule, user: str
) -> None:
    seen, family = Seen(), cls.family.value
    before = refused(family, "wrong_sender")
    verdict = await receive({cls: seen}, sender=rule)(delivery(cls, user))
    assert verdict is Verdict.REJECT
    assert seen.messages == []
    assert refused(family, "wrong_sender") == before + 1


async def test_a_message_without_a_sender_is_rejected() -> None:
    seen, before = Seen(), refused("report", "no_sender")
    verdict = await receive({Started: seen}, sender=node_of_body)(delivery(Started, None))
    assert verdict is Verdict.REJECT
    assert seen.messages == []
    assert refused("report", "no_sender") == before + 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"body": b"\xc1"}, "undecodable"),
        ({"body": b"\x91" * 500}, "undecodable"),
        ({"body": b"\x80"}, "undecodable"),
        ({"headers": {}}, "undecodable"),
        ({"content_type": "application/json"}, "undecodable"),
        ({"content_type": None}, "undecodable"),
        ({"body": b"x" * (BODY_BYTES_MAX + 1)}, "too_large"),
    ],
)
async def test_what_cannot_be_read_is_rejected_with_its_digest(
    change: dict[str, Any], reason: str
) -> None:
    bad = replace(delivery(Started, NODE), **change)
    seen, before = Seen(), refused("report", reason)
    with structlog.testing.capture_logs() as logs:
        verdict = await receive({Started: seen}, sender=node_of_body)(bad)
    assert verdict is Verdict.REJECT
    assert seen.messages == []
    assert refused("report", reason) == before + 1
    (line,) = logs
    assert line["digest"] == hashlib.sha256(bad.body).hexdigest()[:16]
    assert line["bytes"] == len(bad.body)
    assert line["reason"] == reason


async def test_an_unknown_version_is_refused_loudly() -> None:
    good = delivery(Registered, NODE)
    later = {key: value.replace(".v1", ".v2") for key, value in good.headers.items()}
    before = refused("report", "unknown_version")
    verdict = await receive({}, sender=node_of_body)(replace(good, headers=later))
    assert verdict is Verdict.REJECT
    assert refused("report", "unknown_version") == before + 1


async def test_a_bad_heartbeat_is_dropped_and_counted_without_a_line() -> None:
    seen, before = Seen(), refused("heartbeat", "wrong_sender")
    handle = receive({Heartbeat: seen})
    with structlog.testing.capture_logs() as logs:
        assert await handle(delivery(Heartbeat, OTHER)) is Verdict.ACK
    assert seen.messages == []
    assert logs == []
    assert refused("heartbeat", "wrong_sender") == before + 1


async def test_a_message_nobody_here_handles_is_acked() -> None:
    verdict = await receive({}, sender=controllers_only)(delivery(NodeDown, MONITOR_USER))
    assert verdict is Verdict.ACK


def test_only_heartbeats_are_sent_and_forgotten() -> None:
    for cls in (Start, Started, NodeDown, FenceNode):
        sent = outgoing(example(cls), example_envelope(cls))
        assert (sent.confirm, sent.mandatory) == (True, True)
    beat = outgoing(example(Heartbeat), example_envelope(Heartbeat))
    assert (beat.confirm, beat.mandatory) == (False, False)
    assert (beat.exchange, beat.routing_key) == ("evac.heartbeat", NODE)
