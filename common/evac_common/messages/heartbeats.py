"""Heartbeats: transient, unconfirmed, worth nothing when late."""

from __future__ import annotations

from pydantic import Field

from evac_common.messages.registry import Family, Message
from evac_common.model.identity import Id, node_user


class Heartbeat(Message, name="heartbeat", family=Family.HEARTBEAT, writer="compute"):
    """The node's daemon is alive. Silence is measured by the monitor's own clock."""

    node_id: Id
    incarnation: int = Field(ge=1)
    term: int = Field(ge=0, description="Term of the session the node is in; 0: none.")
    sequence: int = Field(ge=1)

    def routing_key(self) -> str:
        return node_user(self.node_id)

    def subject(self) -> str | None:
        return self.node_id
