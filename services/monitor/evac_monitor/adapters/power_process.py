"""A power driver whose every call is a process of its own.

The libraries that speak to BMCs block, retry on their own account and cannot be interrupted; a
process can be killed when its time is over. Everything, the password too, goes to it on standard
input, and stands in no argument and no environment.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import ClassVar, Final

from evac_monitor.adapters.power_wire import Answer, Request
from evac_monitor.core.fencing import PowerState
from evac_monitor.ports import PowerError, PowerTarget

_ERROR_CHARACTERS_MAX: Final = 500


class ProcessPower:
    """PowerDriver over `CHILD`, a module that answers one request.

    `call_limit_s` bounds every call, the start of the process included.
    """

    CHILD: ClassVar[str]

    def __init__(self, *, call_limit_s: float) -> None:
        self._call_limit_s = call_limit_s

    async def power_off(self, target: PowerTarget) -> None:
        await self._call("power_off", target)

    async def power_state(self, target: PowerTarget) -> PowerState:
        told = await self._call("power_state", target)
        match told:
            case "on":
                return PowerState.ON
            case "off":
                return PowerState.OFF
            case _:
                return PowerState.UNKNOWN

    async def identity(self, target: PowerTarget) -> str | None:
        return await self._call("identity", target)

    async def _call(self, call: str, target: PowerTarget) -> str | None:
        request = request_of(call, target, self._call_limit_s)
        where = f"BMC {target.address}:{target.port}"
        try:
            async with asyncio.timeout(self._call_limit_s):
                answer = await _converse(self.CHILD, request)
        except TimeoutError:
            raise PowerError(f"{where} did not answer within {self._call_limit_s:g} s") from None
        except (OSError, ValueError) as error:
            raise PowerError(f"{where}: the process that asks it failed: {error}") from error
        if "error" in answer:
            raise PowerError(
                f"{where}: {answer['error'][:_ERROR_CHARACTERS_MAX]}",
                hopeless=bool(answer.get("hopeless")),
            )
        return answer.get("value")


def request_of(call: str, target: PowerTarget, limit_s: float) -> Request:
    """What a child is told."""
    return {
        "call": call,
        "address": target.address,
        "port": target.port,
        "username": target.username,
        "password": target.password,
        "system": target.system,
        "tls_sha256": target.tls_sha256,
        "limit_s": limit_s,
    }


async def _converse(child: str, request: Request) -> Answer:
    """Start the process, give it the request, read its answer. It never outlives this call."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-m",
        child,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={},
    )
    try:
        stdout, stderr = await process.communicate(json.dumps(request).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        last = stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        # Only the exception's name: its words might quote what was sent.
        raise ValueError(f"it ended with {process.returncode}: {last[0].partition(':')[0]}")
    answer: Answer = json.loads(stdout)
    return answer
