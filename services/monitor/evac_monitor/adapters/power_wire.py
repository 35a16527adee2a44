"""What a power driver and its child process say to each other, as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Final, TypedDict

_GRACE_S: Final = 0.5  # the driver's own limit comes first, and has a sentence to say


class Request(TypedDict):
    call: str  # power_off, power_state, identity
    address: str
    port: int
    username: str
    password: str
    system: str  # Redfish: which of the BMC's; empty: the only one
    tls_sha256: str  # Redfish: the certificate that is trusted; empty: a valid one
    limit_s: float  # the process is killed after it


class Answer(TypedDict, total=False):
    value: str | None  # of power_state: on, off, or any other word that the BMC has
    error: str
    hopeless: bool  # asking again at once would meet the same


def answer_once(converse: Callable[[Request], Answer]) -> None:
    """The whole child: one request from standard input, one answer to standard output.

    It ends without waiting for anything, threads of a library for example; and soon after its time
    is over, also when a killed monitor cannot end it: a late order might meet a node that is back.
    """
    request: Request = json.loads(sys.stdin.read())
    signal.setitimer(signal.ITIMER_REAL, request["limit_s"] + _GRACE_S)
    answer = converse(request)
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)
