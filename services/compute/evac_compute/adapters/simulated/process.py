"""The simulated hypervisor as a process of its own, reached through a unix socket.

    python -m evac_compute.adapters.simulated.process --socket PATH --log FILE --node NAME

Its guests run as long as it does: killing it is a power cut, killing the daemon touches nothing.

The wire is JSON lines. A request `{"id": N, "op": NAME, "args": {...}}` is answered by
`{"id": N, "ok": VALUE}` or `{"id": N, "error": "start"|"unreachable"|"bad", "detail": TEXT, ...}`;
an event comes as `{"event": {...}}`. Operations are those of the port (client.py), and for tests
`control` with `{"do":
"hang"|"hang_starts"|"resume"|"refuse_starts"|"end_guest"|"ignore_power_button"}`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evac_common.messages.reports import StartErrorKind
from evac_compute.adapters.simulated.core import HypervisorCore
from evac_compute.adapters.simulated.local import SimulatedHypervisor
from evac_compute.adapters.simulated.log import ALIVE_EVERY_S, LogFile, boottime_s
from evac_compute.ports import DomainEnded, HypervisorEvent, HypervisorUnreachable, StartError

LINE_BYTES_MAX = 1024 * 1024


class Server:
    def __init__(self, hypervisor: SimulatedHypervisor) -> None:
        self._hypervisor = hypervisor

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one daemon until it goes; what it asked for and does not wait for any more ends
        there.
        """
        send = _Sender(writer)
        self._hypervisor.connect(send.event)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = []
                while line := await reader.readline():
                    request = json.loads(line)
                    tasks.append(group.create_task(self._serve(request, send)))
                    tasks = [task for task in tasks if not task.done()]
                for task in tasks:
                    task.cancel()
        except* (ConnectionError, json.JSONDecodeError):
            pass  # a killed daemon, or half a line of one
        finally:
            self._hypervisor.disconnect(send.event)
            writer.close()

    async def _serve(self, request: dict[str, Any], send: _Sender) -> None:
        try:
            if request["op"] == "control":
                self.control(**request["args"])
                value = None
            else:
                value = await self._hypervisor.call(request["op"], request["args"])
            answer: dict[str, Any] = {"ok": value}
        except StartError as error:
            answer = {"error": "start", "kind": error.kind.value, "detail": error.detail}
        except HypervisorUnreachable as error:
            answer = {"error": "unreachable", "detail": str(error)}
        except (ValueError, KeyError, TypeError) as error:
            answer = {"error": "bad", "detail": f"{type(error).__name__}: {error}"}
        send.line({"id": request["id"], **answer})

    def control(self, do: str, **args: Any) -> None:
        """Faults on demand."""
        hypervisor = self._hypervisor
        match do:
            case "hang":
                hypervisor.hang()
            case "hang_starts":
                hypervisor.hang_starts()
            case "resume":
                hypervisor.resume()
            case "refuse_starts":
                hypervisor.refuse_starts(StartErrorKind(args["kind"]), times=args["times"])
            case "end_guest":
                hypervisor.end_guest(args["instance_id"], args["how"])
            case "ignore_power_button":
                hypervisor.ignore_power_button(args["instance_id"])
            case _:
                raise ValueError(f"no control {do!r}")


class _Sender:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def line(self, value: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(value).encode() + b"\n")

    def event(self, event: HypervisorEvent) -> None:
        if isinstance(event, DomainEnded):
            self.line({"event": asdict(event)})


async def _witness(hypervisor: SimulatedHypervisor, log: LogFile) -> None:
    """Write down, again and again, which guests execute."""
    while True:
        running = [guest.instance_id for guest in hypervisor.core.executing()]
        if running:
            log.alive(running)
        await asyncio.sleep(ALIVE_EVERY_S)


async def serve(args: argparse.Namespace) -> None:
    log = LogFile(args.log, args.node)
    core = HypervisorCore(
        node=args.node,
        vcpus=args.vcpus,
        memory_mib=args.memory_mib,
        bridges=tuple(args.bridge) or None,
        on_entry=log.entry,
    )
    hypervisor = SimulatedHypervisor(
        core,
        start_delay_s=args.start_delay_s,
        poweroff_delay_s=args.poweroff_delay_s,
        clock=boottime_s,
    )
    with contextlib.suppress(FileNotFoundError):
        args.socket.unlink()  # of a process that was killed
    server = await asyncio.start_unix_server(
        Server(hypervisor).connected, args.socket, limit=LINE_BYTES_MAX
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    witness = asyncio.create_task(_witness(hypervisor, log), name="witness")
    async with server:
        await stop.wait()
    witness.cancel()
    hypervisor.power_cut()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A hypervisor without machines.")
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to listen on")
    parser.add_argument("--log", type=Path, required=True, help="file to append what runs to")
    parser.add_argument("--node", required=True, help="name of the node, for the log")
    parser.add_argument("--vcpus", type=int, default=32)
    parser.add_argument("--memory-mib", type=int, default=131072)
    parser.add_argument("--bridge", action="append", default=[], help="again for more; none: any")
    parser.add_argument("--start-delay-s", type=float, default=0.5)
    parser.add_argument("--poweroff-delay-s", type=float, default=1.0)
    asyncio.run(serve(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
