"""Requests from the bus do what REST does, once, and tell the outcome as events."""

from __future__ import annotations

from evac_api.handlers.requests import Requests
from evac_common.bus.inbox import outgoing
from evac_common.bus.port import Delivery, Verdict
from evac_common.messages import requests
from evac_common.messages.codec import Envelope
from evac_common.messages.registry import Message
from evac_common.model.states import NodeState
from tests.unit.api.cluster import Cluster, instance

ID = "c" * 32


def delivery(cluster: Cluster, message: Message, user: str | None = "observer") -> Delivery:
    envelope = Envelope(id=ID, source="/tools", time=cluster.store.clock.now())
    sent = outgoing(message, envelope)
    return Delivery(
        exchange=sent.exchange,
        routing_key=sent.routing_key,
        headers=sent.headers,
        content_type=sent.content_type,
        body=sent.body,
        message_id=ID,
        user_id=user,
    )


async def test_a_report_of_an_outside_observer_is_a_wish_to_fence(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", NodeState.UP)
    message = requests.ReportNodeDown(request_id=ID, node="n1", reason="no ping for 1 min")
    handler = Requests(cluster.app.state.desk)

    first = await handler.receive(delivery(cluster, message))
    second = await handler.receive(delivery(cluster, message))

    assert (first, second) == (Verdict.ACK, Verdict.ACK)
    operations = (await cluster.ok("GET", f"/v1/operations?request_id={ID}"))["items"]
    assert [(one["verb"], one["actor"]) for one in operations] == [("node.fence", "bus:observer")]
    accepted = await cluster.events("operation.accepted")
    assert [event["body"]["request_id"] for event in accepted] == [ID]


async def test_a_refused_request_is_told_as_a_failed_operation_once(cluster: Cluster) -> None:
    message = requests.FenceNode(request_id=ID, node="n9", reason="no ping")
    handler = Requests(cluster.app.state.desk)

    for _ in range(2):
        assert await handler.receive(delivery(cluster, message)) is Verdict.ACK

    failed = await cluster.events("operation.failed")
    assert len(failed) == 1
    assert failed[0]["body"]["request_id"] == ID
    assert failed[0]["body"]["message"] == "there is no node named n9"


async def test_another_request_under_the_same_id_is_refused(cluster: Cluster) -> None:
    await cluster.ok("POST", "/v1/instances", json={"name": "a", **instance()})
    handler = Requests(cluster.app.state.desk)

    for kind in (requests.StopInstance, requests.StartInstance):
        message = kind(request_id=ID, instance="a")
        assert await handler.receive(delivery(cluster, message)) is Verdict.ACK

    shown = await cluster.ok("GET", "/v1/instances/a")
    assert shown["spec"]["run_strategy"] == "Halted"
    failed = await cluster.events("operation.failed")
    assert "was used for another request" in failed[0]["body"]["message"]


async def test_control_characters_in_a_reason_are_refused(cluster: Cluster) -> None:
    await cluster.enrol("n1")
    message = requests.FenceNode(request_id=ID, node="n1", reason="no\x00ping")

    assert await Requests(cluster.app.state.desk).receive(delivery(cluster, message)) is Verdict.ACK

    failed = await cluster.events("operation.failed")
    assert "control characters" in failed[0]["body"]["message"]


async def test_what_is_no_request_of_a_known_user_goes_to_the_dead_letters(
    cluster: Cluster,
) -> None:
    message = requests.StopInstance(request_id=ID, instance="a")
    handler = Requests(cluster.app.state.desk)

    unsigned = await handler.receive(delivery(cluster, message, user=None))
    garbled = delivery(cluster, message)
    broken = await handler.receive(
        Delivery(
            exchange=garbled.exchange,
            routing_key=garbled.routing_key,
            headers=garbled.headers,
            content_type=garbled.content_type,
            body=b"\xc1",
            message_id=ID,
            user_id="observer",
        )
    )

    assert (unsigned, broken) == (Verdict.REJECT, Verdict.REJECT)
    assert await cluster.events() == []
