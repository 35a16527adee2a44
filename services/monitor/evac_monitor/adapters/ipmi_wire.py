"""What the IPMI driver and its child process say to each other, as JSON."""

from __future__ import annotations

from typing import TypedDict


class Request(TypedDict):
    call: str  # power_off, power_state, identity
    address: str
    port: int
    username: str
    password: str


class Answer(TypedDict, total=False):
    value: str | None
    error: str
    hopeless: bool  # asking again at once would meet the same
