"""Commands from the bus: journal, acknowledge. Everything else happens in lanes.

Who may say what is checked before: sessions come from the monitor, all else from the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable

from evac_common.bus.inbox import receive
from evac_common.bus.port import Handler, Verdict
from evac_common.messages.codec import Envelope
from evac_common.messages.commands import Command, Destroy, Session, Start, Stop
from evac_compute.core.record import Accepted, Pending
from evac_compute.ports import JournalUnavailable
from evac_compute.state import Node


def commands(node: Node, carry_out: Callable[[Pending], None]) -> Handler:
    """The handler of the node's command queue. `carry_out` takes over what was journalled."""

    async def take(_: Envelope, command: Command) -> Verdict:
        if command.node_id != node.identity.node_id:
            node.log.warning("command rejected", why=f"it is for node {command.node_id}")
            return Verdict.REJECT
        if command.command_id in node.recorded.pending:
            return Verdict.ACK  # taken over already, and not settled yet
        try:
            node.write(Accepted(command=command))
        except JournalUnavailable as error:
            node.log.error("journal takes nothing", why=str(error))
            return Verdict.RETRY
        carry_out(Pending(command=command))
        return Verdict.ACK

    return receive(dict.fromkeys((Session, Start, Stop, Destroy), take))
