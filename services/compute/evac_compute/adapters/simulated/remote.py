"""The port to a simulated hypervisor in another process; connects again whenever it is lost."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evac_common.messages.reports import StartErrorKind
from evac_common.model.states import ExitReason
from evac_compute.adapters.simulated.client import SimulatedPort
from evac_compute.adapters.simulated.process import LINE_BYTES_MAX
from evac_compute.ports import (
    DomainEnded,
    HypervisorBack,
    HypervisorLost,
    HypervisorUnreachable,
    StartError,
)

RECONNECT_MIN_S = 0.1


class RemoteHypervisor(SimulatedPort):
    """`run` keeps it connected; without a connection every call fails at once."""

    def __init__(
        self,
        socket: Path,
        *,
        call_time_limit_s: float = 10.0,
        start_time_limit_s: float = 60.0,
        reconnect_max_s: float = 10.0,
    ) -> None:
        super().__init__(call_time_limit_s=call_time_limit_s, start_time_limit_s=start_time_limit_s)
        self._socket = socket
        self._reconnect_max_s = reconnect_max_s
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._why = "not connected yet"

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        pause_s = RECONNECT_MIN_S
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(
                    self._socket, limit=LINE_BYTES_MAX
                )
            except OSError as error:
                self._why = f"{self._socket}: {error.strerror or error}"
                await asyncio.sleep(pause_s)
                pause_s = min(self._reconnect_max_s, pause_s * 2)
                continue
            pause_s = RECONNECT_MIN_S
            self._writer = writer
            self.tell(HypervisorBack())
            try:
                await self._read(reader)
            finally:
                self._lost(writer)

    async def call(self, op: str, args: Mapping[str, Any]) -> Any:
        if self._writer is None:
            raise HypervisorUnreachable(self._why)
        number = next(self._ids)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            request = {"id": number, "op": op, "args": dict(args)}
            self._writer.write(json.dumps(request).encode() + b"\n")
            return await answer
        finally:
            del self._waiting[number]

    async def control(self, do: str, **args: Any) -> None:
        """Faults on demand."""
        await self._within("control", {"do": do, **args})

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = json.loads(line)
                if "event" in message:
                    event = message["event"]
                    reason = ExitReason(event.pop("reason"))
                    self.tell(DomainEnded(**event, reason=reason))
                else:
                    self._settle(message)
        except (ConnectionError, json.JSONDecodeError) as error:
            self._why = f"the connection broke: {error}"
        else:
            self._why = "the hypervisor closed the connection"

    def _settle(self, message: dict[str, Any]) -> None:
        answer = self._waiting.get(message["id"])
        if answer is None or answer.done():
            return  # nobody waits for it any more
        match message.get("error"):
            case None:
                answer.set_result(message["ok"])
            case "start":
                answer.set_exception(StartError(StartErrorKind(message["kind"]), message["detail"]))
            case "unreachable":
                answer.set_exception(HypervisorUnreachable(message["detail"]))
            case _:
                answer.set_exception(ValueError(message["detail"]))

    def _lost(self, writer: asyncio.StreamWriter) -> None:
        self._writer = None
        writer.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(HypervisorUnreachable(f"outcome unknown: {self._why}"))
        self.tell(HypervisorLost(why=self._why))
