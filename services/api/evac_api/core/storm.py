"""What a storm release would do, in words, so that nobody has to find out by doing it."""

from __future__ import annotations

from collections.abc import Sequence

from evac_api.core.views import SilentNodeView
from evac_common.model.states import NodeState


def fate(state: NodeState, *, has_power: bool, isolated: bool) -> str:
    """What becomes of one silent node when the storm is released."""
    match state:
        case NodeState.FENCING:
            return "is being cut off already"
        case NodeState.BLOCKED:
            return "stays blocked: make sure that it is off, then `evac node confirm-down`"
        case NodeState.DEGRADED:
            return "stays as it is: a second channel shows it alive"
        case _ if isolated:
            return "may be cut off, if the monitor is set to fence isolated nodes"
        case _ if has_power:
            return "may be cut off by its BMC"
        case _:
            return "becomes blocked: it has no BMC, a person must prove it dead"


def release(nodes: Sequence[SilentNodeView], *, storm: bool) -> str:
    """The whole of it, in a sentence or two."""
    if not storm:
        return "There is no storm: a release would change nothing."
    waiting = [node for node in nodes if node.state is NodeState.SUSPECT]
    if not waiting:
        return "No node is silent any more: a release would only end the storm."
    instances = sum(node.instances for node in waiting)
    return (
        f"Automatic fencing goes on. {_count(len(waiting), 'silent node')} may be cut off, one "
        f"after the other, and {_count(instances, 'instance')} started elsewhere. "
        "A node that is heard before its turn is left alone."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
