"""A live BMC of the lab on loopback, in a process of its own; its machine is a process group."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, Self

from evac_common.model.states import PowerKind
from evac_lab.real.power import GroupPower
from evac_monitor.ports import PowerDriver, PowerTarget

UUID = "00112233-4455-6677-8899-aabbccddeeff"
PASSWORD = "calvin"
_MACHINE = ("sleep", "600")


class LiveBench:
    """`Bench` over a real protocol, while it is entered."""

    kind: ClassVar[PowerKind]
    socket_type: ClassVar[socket.SocketKind]
    system_uuid = UUID

    def __init__(self, folder: Path, driver: PowerDriver, *, limit_s: float) -> None:
        self.driver = driver
        self.limit_s = limit_s
        self.folder = folder
        self.port = self._free_port()
        (folder / "password").write_text(PASSWORD)
        self._machine = GroupPower(pid_file=folder / "machine.pid", command=_MACHINE)
        self._machine.on()
        self._process: subprocess.Popen[str] | None = None

    def options(self) -> list[str]:
        """More arguments of the BMC's process."""
        return []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "evac_lab.real.bmc"),
                *("--port", str(self.port), "--uuid", UUID),
                *("--password-file", str(self.folder / "password")),
                *("--faults", str(self.folder / "faults"), *self.options()),
                *("group", str(self.folder / "machine.pid"), "--", *_MACHINE),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline()).strip() != "listening":
            assert line, "the BMC's process ended"

    def _close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._machine.off()

    def target(
        self, *, password: str | None = None, port: int | None = None, **more: str
    ) -> PowerTarget:
        return PowerTarget(
            node_id="1" * 32,
            kind=self.kind,
            address="127.0.0.1",
            port=self.port if port is None else port,
            username="admin",
            password=PASSWORD if password is None else password,
            **more,
        )

    def unreachable_target(self) -> PowerTarget:
        return self.target(port=self._free_port())

    def is_on(self) -> bool:
        return self._machine.is_on()

    def make_slow(self) -> None:
        self.fault("slow")

    def make_lying(self) -> None:
        self.fault("lies")

    def hide_identity(self) -> None:
        self.fault("nameless")

    def fault(self, word: str) -> None:
        (self.folder / "faults").write_text(word)

    def _free_port(self) -> int:
        with socket.socket(socket.AF_INET, self.socket_type) as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])


class NothingShown:
    """What a driver whose calls are processes must never show, for its contract's subclass."""

    child: ClassVar[str]

    async def test_the_password_is_in_no_argument_and_no_environment(
        self, bench: LiveBench
    ) -> None:
        bench.make_slow()
        call = asyncio.create_task(bench.driver.power_state(bench.target()))
        seen = await self._child_seen()

        assert PASSWORD not in seen

        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    async def test_a_cancelled_call_leaves_no_process(self, bench: LiveBench) -> None:
        bench.make_slow()
        call = asyncio.create_task(bench.driver.power_state(bench.target()))
        await self._child_seen()

        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

        assert self.child not in _descendants()

    async def _child_seen(self) -> str:
        """What `_descendants` shows as soon as the driver's process is among them."""
        async with asyncio.timeout(5):
            while True:
                seen = _descendants()
                if self.child in seen:
                    return seen
                await asyncio.sleep(0.02)


def _descendants() -> str:
    """Arguments and environments of this process's children."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            for name in ("cmdline", "environ"):
                try:
                    found.append((Path("/proc") / pid / name).read_text(errors="replace"))
                except OSError:
                    continue  # it ended meanwhile
    return "\n".join(found)
