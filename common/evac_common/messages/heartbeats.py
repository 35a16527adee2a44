"""Heartbeats: transient, unconfirmed, worth nothing when late."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from evac_common.messages.registry import Family, Message
from evac_common.model.identity import Id, node_user

TROUBLES_MAX = 8
TROUBLE_CHARACTERS_MAX = 500
_Reason = Annotated[str, StringConstraints(pattern="^[a-z0-9_]{1,32}$")]
_Sentence = Annotated[str, StringConstraints(max_length=TROUBLE_CHARACTERS_MAX)]


class Heartbeat(Message, name="heartbeat", family=Family.HEARTBEAT, writer="compute"):
    """The node's daemon is alive. Silence is measured by the monitor's own clock."""

    node_id: Id
    incarnation: int = Field(ge=1)
    term: int = Field(ge=0, description="Term of the session the node is in; 0: none.")
    sequence: int = Field(ge=1)
    troubles: dict[_Reason, _Sentence] = Field(
        default_factory=dict,
        max_length=TROUBLES_MAX,
        description="What the node says is wrong with it: `libvirt`, `storage`, `shutting_down`, "
        "each with a sentence. Reasons that the monitor does not know are passed over.",
    )

    def routing_key(self) -> str:
        return node_user(self.node_id)

    def subject(self) -> str | None:
        return self.node_id
