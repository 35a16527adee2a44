"""The lab's network: one switch and the machines on it, each a network namespace of this machine.

`evac-ID-switch` holds a bridge; `evac-ID-control` stands for the reference site (broker, database,
controllers, BMCs) at 10.77.0.254; `evac-ID-NAME` is a host at 10.77.0.N. Nothing of it touches the
machine's own network, so several labs may use the same addresses side by side.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evac_lab.real.errors import LabError
from evac_lab.real.processes import ProcessId, program

CONTROL = "control"
CONTROL_NUMBER = 254
_SUBNET = "10.77.0"
_NAMESPACES = Path("/run/netns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The network of one lab. Holds no state: the kernel does, so any process may use it."""

    lab_id: str

    @property
    def switch(self) -> str:
        return f"evac-{self.lab_id}-switch"

    def namespace(self, name: str) -> str:
        """The network namespace of a host, or of `control`."""
        return f"evac-{self.lab_id}-{name}"

    def up(self) -> None:
        """Make the switch and the control machine."""
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "br0", "up")
        self.attach(CONTROL, CONTROL_NUMBER)

    def attach(self, name: str, number: int, *, plugged: bool = True) -> None:
        """Make a machine's network: loopback, eth0 at 10.77.0.NUMBER, and its cable to the switch.

        The hardware address follows from the number: were it random, the others would keep talking
        to the old one for a minute after a power cycle, as their neighbour tables say.
        """
        namespace, port = self.namespace(name), _port(number)
        _ip("netns", "add", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip(
            *("-n", self.switch, "link", "add", port, "type", "veth"),
            *("peer", "name", "eth0", "address", hardware_address(number), "netns", namespace),
        )
        _ip("-n", self.switch, "link", "set", port, "master", "br0")
        _ip("-n", namespace, "address", "add", f"{address(number)}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        if plugged:
            self.plug(number)

    def add_bridge(self, name: str, bridge: str) -> None:
        """A bridge without uplink inside a machine, for the cards of its instances."""
        _ip("-n", self.namespace(name), "link", "add", bridge, "type", "bridge")
        _ip("-n", self.namespace(name), "link", "set", bridge, "up")

    def plug(self, number: int) -> None:
        _ip("-n", self.switch, "link", "set", _port(number), "up")

    def unplug(self, number: int) -> None:
        """Pull the cable at the switch: nothing leaves or reaches the machine, which goes on."""
        _ip("-n", self.switch, "link", "set", _port(number), "down")

    def cut(self, source: int, destination: int) -> None:
        """Drop what `source` sends to `destination`; the other direction stays as it is."""
        rules = self._rules()
        rules[source, destination] = None
        self._write_rules(list(rules))

    def heal(self, source: int, destination: int) -> None:
        """Undo `cut`; no harm if there was none."""
        rules = self._rules()
        rules.pop((source, destination), None)
        self._write_rules(list(rules))

    def detach(self, name: str, number: int) -> None:
        """Remove a machine's network, with its cable; no harm if it is gone."""
        if not self.exists(name):
            return
        # The cable by itself: the kernel clears a deleted namespace some time later, and until
        # then a new cable of the same name would be refused.
        if self._has_port(number):
            _ip("-n", self.switch, "link", "delete", _port(number))
        _ip("netns", "delete", self.namespace(name))

    def exists(self, name: str) -> bool:
        return (_NAMESPACES / self.namespace(name)).exists()

    def namespaces(self) -> tuple[str, ...]:
        """Every namespace of this lab that exists now."""
        if not _NAMESPACES.is_dir():
            return ()
        mine = f"evac-{self.lab_id}-"
        return tuple(
            sorted(entry.name for entry in _NAMESPACES.iterdir() if entry.name.startswith(mine))
        )

    def processes(self) -> tuple[ProcessId, ...]:
        """Every process that lives in a namespace of this lab, hence belongs to it."""
        pids = (
            int(pid) for name in self.namespaces() for pid in _ip("netns", "pids", name).split()
        )
        return tuple(found for pid in pids if (found := ProcessId.of(pid)) is not None)

    def commands(self) -> tuple[int, ...]:
        """Commands under way that make or change this lab's namespaces.

        One may outlive a killed tool by a moment, and make what a `down` has just removed.
        """
        mark = f"evac-{self.lab_id}-".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                program_name, *arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if program_name.endswith((b"/ip", b"/nsenter")) and mark in b"\0".join(arguments):
                found.append(int(entry.name))
        return tuple(found)

    def remove(self) -> None:
        """Remove every namespace of the lab, whose processes must be gone: they would keep it."""
        for name in self.namespaces():
            _ip("netns", "delete", name)

    def _has_port(self, number: int) -> bool:
        listed = _ip("-n", self.switch, "-o", "link", "show", "type", "veth")
        return f" {_port(number)}@" in listed

    def _rules(self) -> dict[tuple[int, int], None]:
        if "evac" not in _nft(self.switch, "list", "tables", "bridge"):
            return {}
        listed = _nft(self.switch, "list", "table", "bridge", "evac")
        found: dict[tuple[int, int], None] = {}
        for line in listed.splitlines():
            words = line.replace('"', "").split()
            if words[:1] == ["iifname"]:
                found[int(words[1][1:]), int(words[3][1:])] = None
        return found

    def _write_rules(self, rules: Sequence[tuple[int, int]]) -> None:
        drops = "\n".join(
            f'iifname "{_port(source)}" oifname "{_port(destination)}" drop'
            for source, destination in rules
        )
        _nft(
            self.switch,
            "-f",
            "-",
            # Adding before deleting makes the first time no special case; nft applies it as one.
            text="table bridge evac {}\ndelete table bridge evac\n"
            "table bridge evac { chain forward {\n"
            f"type filter hook forward priority 0; policy accept;\n{drops}\n}}\n}}\n",
        )


def address(number: int) -> str:
    """The address of the machine with this number, 1 to 254."""
    if not 1 <= number <= CONTROL_NUMBER:
        raise LabError("a lab's machine has a number from 1 to 254", number=number)
    return f"{_SUBNET}.{number}"


def hardware_address(number: int) -> str:
    return f"02:77:00:00:00:{number:02x}"


def _port(number: int) -> str:
    return f"p{number}"


def _ip(*arguments: str) -> str:
    return _run([program("ip"), *arguments])


def _nft(namespace: str, *arguments: str, text: str | None = None) -> str:
    enter = [program("nsenter"), f"--net={_NAMESPACES / namespace}", "--"]
    return _run([*enter, program("nft"), *arguments], text=text)


def _run(argv: list[str], *, text: str | None = None) -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError("a network command failed", command=argv[1:], why=done.stderr.strip())
    return done.stdout
