"""Every declared message. To import this module is to have all families in the registry."""

from __future__ import annotations

from typing import Final

from evac_common.messages import commands, events, heartbeats, reports, requests
from evac_common.messages.registry import Message, declared

FAMILIES: Final = (commands, reports, heartbeats, events, requests)


def all_messages() -> tuple[type[Message], ...]:
    """All messages of all families, ordered by type."""
    return declared()
