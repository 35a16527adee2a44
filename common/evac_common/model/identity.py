"""Who is who: node ids, the broker user of a node, and the session (`Gen`) of a node.

Ids are 32 lower-case hex digits (a UUID without dashes). Human names are for display only; nothing
is ever decided by comparing names, because names change and get cloned.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import StringConstraints

NODE_USER_PREFIX: Final = "compute-"
API_USER: Final = "evac-api"
SCHEDULER_USER: Final = "evac-scheduler"
MONITOR_USER: Final = "evac-monitor"
CONTROLLER_USERS: Final = (API_USER, SCHEDULER_USER, MONITOR_USER)

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
# A DNS label, 63 characters: what libvirt, hostnames and routing keys all accept.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]

_NODE_USER = re.compile(rf"^{NODE_USER_PREFIX}([0-9a-f]{{32}})$")


def node_user(node_id: str) -> str:
    """The RabbitMQ user of a node; also `<node>` in routing keys and queue names."""
    return f"{NODE_USER_PREFIX}{node_id}"


def node_of_user(user: str | None) -> str | None:
    """The node id behind a broker user, or None when the user is not a node."""
    match = _NODE_USER.match(user or "")
    return match.group(1) if match else None


@dataclass(frozen=True, slots=True, order=True)
class Gen:
    """The session of a node: the database's term and the node's incarnation.

    A command is obeyed only in the session it was issued for. Terms order sessions over a restored
    database; proofs about a node compare incarnations only (a failover must not make rows
    unprovable).
    """

    term: int
    incarnation: int
