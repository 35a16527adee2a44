"""Is a command that was not answered sent again, and as the same command?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from evac_common.model.identity import Gen
from evac_scheduler.core import backoff


class Send(Enum):
    WAIT = auto()
    AGAIN = auto()  # same id, same bytes: the node executes it once
    ANEW = auto()  # same epoch and run under a new id: the old one is refused by now


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A command row."""

    command_id: str
    node_id: str
    gen: Gen
    deadline: datetime | None  # None: it holds as long as the session
    times: int
    next_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    send: Send
    why: str


def choose(sent: Sent | None, *, gen: Gen, now: datetime, longest_s: float) -> Choice:
    """`longest_s`: the longest pause between two sendings."""
    if sent is None:
        return Choice(send=Send.ANEW, why="it was never sent")
    if sent.gen != gen:
        return Choice(send=Send.ANEW, why="the node has a new session")
    if not backoff.due(sent.next_at, now, longest_s=longest_s):
        return Choice(send=Send.WAIT, why=f"sent {sent.times} times; the answer is awaited")
    if sent.deadline is not None and sent.deadline <= now:
        return Choice(send=Send.ANEW, why="its deadline has passed")
    return Choice(send=Send.AGAIN, why=f"sent {sent.times} times, not answered")
