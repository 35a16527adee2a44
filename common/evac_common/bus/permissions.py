"""Who may do what on the broker: one table, applied to RabbitMQ and to the embedded bus alike.

RabbitMQ asks three expressions about resource names (configure, write, read) and, on a topic
exchange, two more about the routing key. An exchange for which a user has no topic permission is
open to any key, therefore every user gets one for every exchange.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from evac_common.bus.topology import CANARY_EXCHANGE, DEAD_EXCHANGE, EXCHANGES, command_queue
from evac_common.messages.registry import Family
from evac_common.model.identity import (
    API_USER,
    CONTROLLER_USERS,
    MONITOR_USER,
    SCHEDULER_USER,
    node_of_user,
    node_user,
)

NOTHING: Final = "^$"
ANYTHING: Final = ".*"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPermission:
    """Routing keys a user may publish with, and binding patterns it may use, on one exchange."""

    write: str = NOTHING
    read: str = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """What one user may do in evac's virtual host. All values are regular expressions."""

    configure: str
    write: str
    read: str
    topics: Mapping[str, TopicPermission]

    def may_configure(self, resource: str) -> bool:
        return re.search(self.configure, resource) is not None

    def may_write(self, resource: str) -> bool:
        return re.search(self.write, resource) is not None

    def may_read(self, resource: str) -> bool:
        return re.search(self.read, resource) is not None

    def may_publish(self, exchange: str, routing_key: str) -> bool:
        topic = self.topics.get(exchange)
        return self.may_write(exchange) and (
            topic is None or re.search(topic.write, routing_key) is not None
        )

    def may_bind(self, queue: str, exchange: str, pattern: str) -> bool:
        topic = self.topics.get(exchange)
        return (
            self.may_write(queue)
            and self.may_read(exchange)
            and (topic is None or re.search(topic.read, pattern) is not None)
        )


def node_permissions(node_id: str) -> Permissions:
    """A node publishes its reports and heartbeats and reads its queue; it declares nothing."""
    user = re.escape(node_user(node_id))
    own = {
        Family.REPORT.exchange: TopicPermission(write=rf"^{user}\.[a-z_]+$"),
        Family.HEARTBEAT.exchange: TopicPermission(write=f"^{user}$"),
    }
    return Permissions(
        configure=NOTHING,
        write=_exactly(Family.REPORT.exchange, Family.HEARTBEAT.exchange),
        read=_exactly(command_queue(node_id).name),
        topics={exchange: own.get(exchange, TopicPermission()) for exchange in EXCHANGES},
    )


def controller_permissions(user: str) -> Permissions:
    """A controller declares and reads all of evac's; it publishes only what it is the writer of."""
    writes = dict.fromkeys(EXCHANGES, NOTHING) | {
        Family.EVENT.exchange: ANYTHING,
        CANARY_EXCHANGE: rf"^{re.escape(user)}\.[0-9a-f]+$",
        **_EXTRA_WRITES[user],
    }
    allowed = [name for name in EXCHANGES if writes[name] != NOTHING]
    # Writing to the dead-letter exchange is asked for when a queue names it; its topic stays shut.
    names = "|".join(re.escape(name) for name in (*allowed, DEAD_EXCHANGE))
    # Queues: to bind one is to write to it. Only the dead letters' queue has an exchange's name.
    queues = r"evac\.(compute|scheduler|monitor|api|canary)\..+|evac\.events"
    return Permissions(
        configure=r"^evac\.",
        write=f"^({names}|{queues})$",
        read=r"^evac\.",
        topics={name: TopicPermission(write=writes[name], read=ANYTHING) for name in EXCHANGES},
    )


_COMMAND: Final = Family.COMMAND.exchange
_EXTRA_WRITES: Final[Mapping[str, Mapping[str, str]]] = {
    API_USER: {},
    SCHEDULER_USER: {_COMMAND: r"^compute\.compute-[0-9a-f]{32}\.(start|stop|destroy)$"},
    MONITOR_USER: {_COMMAND: r"^compute\.compute-[0-9a-f]{32}\.session$"},
}


def permissions_of(user: str) -> Permissions | None:
    """The permissions of one of evac's own users; None for anybody else."""
    node_id = node_of_user(user)
    if node_id is not None:
        return node_permissions(node_id)
    return controller_permissions(user) if user in CONTROLLER_USERS else None


def _exactly(*names: str) -> str:
    return f"^({'|'.join(re.escape(name) for name in names)})$"
