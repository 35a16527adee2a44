"""Power over IPMI 2.0, by the pyghmi library in a process per call.

Why not the `fence_ipmilan` program: it hands the password to ipmitool as the argument `-P`, which
every user of the machine can read while it runs (fence-agents 4.12.1, `create_command`; a password
script changes nothing, its output takes the same way). Why a process and not a thread: the library
blocks and cannot be interrupted, a process can be killed when its time is over.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Final

from evac_monitor.adapters.ipmi_wire import Answer, Request
from evac_monitor.core.fencing import PowerState
from evac_monitor.ports import PowerError, PowerTarget

CHILD: Final = "evac_monitor.adapters.ipmi_child"
_ERROR_CHARACTERS_MAX = 500


class IpmiPower:
    """PowerDriver. `call_limit_s` bounds every call, the start of the process included."""

    def __init__(self, *, call_limit_s: float = 6.0) -> None:
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
        request: Request = {
            "call": call,
            "address": target.address,
            "port": target.port,
            "username": target.username,
            "password": target.password,
        }
        where = f"BMC {target.address}:{target.port}"
        try:
            async with asyncio.timeout(self._call_limit_s):
                answer = await _converse(request)
        except TimeoutError:
            raise PowerError(f"{where} did not answer within {self._call_limit_s:g} s") from None
        except (OSError, ValueError) as error:
            raise PowerError(f"{where}: the IPMI process failed: {error}") from error
        if "error" in answer:
            raise PowerError(
                f"{where}: {answer['error'][:_ERROR_CHARACTERS_MAX]}",
                hopeless=bool(answer.get("hopeless")),
            )
        return answer.get("value")


async def _converse(request: Request) -> Answer:
    """Start the process, give it the request, read its answer. It never outlives this call."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-m",
        CHILD,
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
        raise ValueError(f"it ended with {process.returncode}: {last[0]}")
    answer: Answer = json.loads(stdout)
    return answer
