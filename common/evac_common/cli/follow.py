"""Following an operation to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from evac_common.cli import units
from evac_common.cli.failures import OperationFailed, StillPending
from evac_common.cli.session import api, out

POLL_S: Final = 2.0  # one long poll: an answer comes at once when settled, a new message within it
SLACK_S: Final = 20.0
PAUSE_S: Final = 0.5


async def follow(
    operation: dict[str, Any], *, wait: bool, timeout: str, json: bool
) -> dict[str, Any]:
    """Show an operation, and wait for it unless told not to.

    Raises OperationFailed when it fails or is superseded, StillPending when the time is over.
    """
    settled = operation
    if wait:
        settled = await until_settled(operation, units.seconds(timeout), quiet=json)
    if json:
        out().json(settled)
    else:
        out().line(sentence(settled))
    check([settled], waited=wait)
    return settled


async def follow_all(
    operations: Sequence[dict[str, Any]], *, timeout: str, quiet: bool
) -> list[dict[str, Any]]:
    """Wait for several, one after the other, within one time."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + units.seconds(timeout)
    return [
        await until_settled(operation, max(0.0, end_s - loop.time()), quiet=quiet)
        for operation in operations
    ]


async def until_settled(
    operation: dict[str, Any], limit_s: float, *, quiet: bool
) -> dict[str, Any]:
    """The operation as it is when settled, or when the time is over."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + limit_s
    said = ""
    while operation["state"] == "pending":
        if not quiet and operation["message"] != said:
            said = operation["message"]
            out().progress(f"{operation['verb']} {operation['target']}: {said}")
        left_s = end_s - loop.time()
        if left_s <= 0:
            break
        wait_s = min(POLL_S, left_s)
        asked_s = loop.time()
        operation = await api().get(
            f"/v1/operations/{operation['id']}", limit_s=wait_s + SLACK_S, wait=wait_s
        )
        if operation["state"] == "pending" and loop.time() - asked_s < PAUSE_S:
            await asyncio.sleep(min(PAUSE_S, left_s))  # it has no room for long polls now
    return operation


def check(operations: Sequence[dict[str, Any]], *, waited: bool) -> None:
    """Raises for the first operation that did not succeed; pending is fine if not waited for."""
    for operation in operations:
        if operation["state"] in ("failed", "cancelled"):
            raise OperationFailed(_outcome(operation))
        if operation["state"] == "pending" and waited:
            raise StillPending(
                f"{_outcome(operation)}; `evac operation show {operation['id']}` goes on"
            )


def sentence(operation: dict[str, Any]) -> str:
    state = operation["state"]
    tail = f" (operation {operation['id']})" if state == "pending" else ""
    return f"{_outcome(operation)}{tail}"


def _outcome(operation: dict[str, Any]) -> str:
    said = f": {operation['message']}" if operation["message"] else ""
    return f"{operation['verb']} {operation['target']}: {operation['state']}{said}"
