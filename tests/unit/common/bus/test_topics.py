"""Topic patterns and the permission table: pure rules."""

from __future__ import annotations

import pytest

from evac_common.bus.permissions import controller_permissions, node_permissions, permissions_of
from evac_common.bus.topics import matches
from evac_common.bus.topology import CONTROLLER_QUEUES, EXCHANGES, command_queue, heartbeat_queue
from evac_common.model.identity import CONTROLLER_USERS, MONITOR_USER, node_user

NODE, OTHER = "a" * 32, "b" * 32


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "aXb", ""]),
        ("a.*", ["a.b", "a."], ["a", "a.b.c", "b.a"]),
        ("*.b", ["a.b"], ["b", "a.a.b"]),
        ("#", ["", "a", "a.b.c"], []),
        ("a.#", ["a", "a.b", "a.b.c"], ["b", "ab", "b.a"]),
        ("#.c", ["c", "b.c", "a.b.c"], ["c.a", "abc"]),
        ("a.#.c", ["a.c", "a.b.c", "a.b.b.c"], ["a", "c", "a.b"]),
        ("*.#", ["a", "a.b"], []),
        ("a+.b", ["a+.b"], ["aa.b"]),
    ],
)
def test_patterns_match_as_amqp_says(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [key for key in yes if not matches(pattern, key)] == []
    assert [key for key in no if matches(pattern, key)] == []


def test_a_node_may_report_and_beat_and_read_its_queue_and_nothing_else() -> None:
    rights, user = node_permissions(NODE), node_user(NODE)
    assert rights.may_publish("evac.report", f"{user}.started")
    assert rights.may_publish("evac.heartbeat", user)
    assert rights.may_read(command_queue(NODE).name)
    assert not rights.may_read(command_queue(OTHER).name)
    for key in (f"{node_user(OTHER)}.started", f"{user}.started.x", f"x{user}.started", user):
        assert not rights.may_publish("evac.report", key)
    for exchange in set(EXCHANGES) - {"evac.report", "evac.heartbeat"}:
        assert not rights.may_publish(exchange, f"{user}.started")
    for name in ("evac.report", command_queue(NODE).name, "amq.gen-x"):
        assert not rights.may_configure(name)


@pytest.mark.parametrize("user", CONTROLLER_USERS)
def test_a_controller_may_declare_and_bind_all_of_evacs_queues(user: str) -> None:
    rights = controller_permissions(user)
    for queue in (*CONTROLLER_QUEUES, command_queue(NODE), heartbeat_queue("m1")):
        assert rights.may_configure(queue.name)
        assert rights.may_read(queue.name)
        for binding in queue.bindings:
            assert rights.may_bind(queue.name, binding.exchange, binding.routing_key)
        if queue.dead_letter_exchange is not None:
            assert rights.may_write(queue.dead_letter_exchange)
    assert not rights.may_configure("amq.topic")
    assert not rights.may_publish("", command_queue(NODE).name)
    assert not rights.may_publish("amq.default", command_queue(NODE).name)
    assert not rights.may_publish("evac.dead", "x")


@pytest.mark.parametrize("user", [*CONTROLLER_USERS, node_user(NODE)])
def test_every_user_has_a_topic_permission_for_every_exchange(user: str) -> None:
    rights = permissions_of(user)
    assert rights is not None
    assert set(rights.topics) == set(EXCHANGES)


def test_only_the_monitor_opens_sessions() -> None:
    key = f"compute.{node_user(NODE)}.session"
    may = [
        user
        for user in CONTROLLER_USERS
        if controller_permissions(user).may_publish("evac.command", key)
    ]
    assert may == [MONITOR_USER]


def test_users_that_are_not_evacs_have_no_permissions_of_evacs() -> None:
    assert permissions_of("a-tool") is None
    assert permissions_of("compute-short") is None
