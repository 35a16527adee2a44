"""Requests: what REST can ask, a tool may publish on `evac.request`.

The outcome comes as `operation.*` events that carry the same `request_id`; nothing is ever replied.
"""

from __future__ import annotations

from pydantic import Field

from evac_common.messages.registry import Family, Message
from evac_common.model.identity import Id, Name


class Request(Message, family=Family.REQUEST, writer="tools"):
    request_id: Id = Field(description="Chosen by the sender; the same id is carried out once.")

    def routing_key(self) -> str:
        return self.name


class OfNode(Request):
    node: Name = Field(description="Name of the node.")
    reason: str = Field(min_length=3, max_length=1000, description="Recorded with the decision.")

    def subject(self) -> str | None:
        return self.node


class ReportNodeDown(OfNode, name="node.report_down"):
    """An outside observer believes the node is down: a wish to fence it, as `node.fence`."""


class FenceNode(OfNode, name="node.fence"):
    """Fence the node now, skipping detection; never skipping the proof."""


class EvacuateNode(OfNode, name="node.evacuate"):
    """Evacuate a node that is fenced or being fenced."""


class OfInstance(Request):
    instance: Name = Field(description="Name of the instance.")

    def subject(self) -> str | None:
        return self.instance


class StartInstance(OfInstance, name="instance.start"):
    """Set the intent to run."""


class StopInstance(OfInstance, name="instance.stop"):
    """Set the intent to be stopped."""
