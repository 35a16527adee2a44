"""Reach a server in another network namespace from this process, without living there.

A socket belongs to the namespace in which it was made, so a thread steps in, connects and hands the
socket out; only that thread ever changes its namespace, and it ends with the call.
"""

from __future__ import annotations

import asyncio
import ctypes
import http.client
import os
import socket
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

_CLONE_NEWNET = 0x40000000
_AMQP_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME = 1

T = TypeVar("T")


async def in_network(network: str | None, act: Callable[[], T]) -> T:
    """Run blocking `act` in a thread of its own, inside the network namespace (None: ours)."""

    def step_in_and_act() -> T:
        if network is not None:
            _enter(Path("/run/netns") / network)
        return act()

    one = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"in {network or 'own'}")
    try:
        return await asyncio.get_running_loop().run_in_executor(one, step_in_and_act)
    finally:
        one.shutdown(wait=False)  # a cancelled caller does not wait for a slow connect


async def amqp_answers(
    address: str, port: int, *, network: str | None = None, timeout_s: float = 2.0
) -> bool:
    """Whether a broker speaks AMQP 0-9-1 there: it answers our header with a method frame."""

    def ask() -> bool:
        try:
            with socket.create_connection((address, port), timeout=timeout_s) as connection:
                connection.sendall(_AMQP_PROTOCOL_HEADER)
                answer = connection.recv(1)
        except OSError:
            return False
        return answer == bytes((_METHOD_FRAME,))

    return await in_network(network, ask)


async def http_status(
    url_path: str,
    *,
    address: str,
    port: int,
    user: str,
    password: str,
    network: str | None = None,
    timeout_s: float = 5.0,
) -> int | None:
    """Status of a GET with basic authentication; None when nobody answers HTTP there."""
    secret = b64encode(f"{user}:{password}".encode()).decode()

    def ask() -> int | None:
        connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
        try:
            connection.request("GET", url_path, headers={"Authorization": f"Basic {secret}"})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    return await in_network(network, ask)


def _enter(namespace: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(namespace))
    finally:
        os.close(descriptor)
