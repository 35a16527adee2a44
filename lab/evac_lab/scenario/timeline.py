"""The time line's language: one line, one thing that happens.

    at 120 power n1 off
    at 150 kill compute@n2
    at 300 end

Words that the format knows and this version does not do are refused by name, like unknown ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SERVICES: Final = ("api", "scheduler", "monitor", "compute")
_AT = re.compile(r"^at\s+(\d+(?:\.\d+)?)\s+(.+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """The power of a node's hardware, as if somebody pulled or put back the plug."""

    node: str
    on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The node's network (not the BMC's): its guests run on while it is off."""

    node: str
    on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """kill -9 of a service; its supervisor starts it again after 5 s. `node` for compute only."""

    service: str
    node: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The run ends and the expectations are judged."""


Action = Power | Network | Kill | End


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    at_s: float
    text: str
    action: Action


class NotUnderstood(ValueError):
    """A line of the time line or of the expectations is not one of the forms."""


def parse_step(line: str) -> Step:
    """Read one line. Raises NotUnderstood saying what was expected."""
    match = _AT.match(line.strip())
    if match is None:
        raise NotUnderstood("expected `at SECONDS ACTION`")
    text = " ".join(match.group(2).split())
    return Step(at_s=float(match.group(1)), text=text, action=_action(text.split(" ")))


def _action(words: list[str]) -> Action:
    match words:
        case ["end"]:
            return End()
        case ["power", node, ("on" | "off") as state]:
            return Power(node=node, on=state == "on")
        case ["network", node, ("on" | "off") as state]:
            return Network(node=node, on=state == "on")
        case ["kill", target]:
            service, _, node = target.partition("@")
            if service not in SERVICES:
                raise NotUnderstood(
                    f"kill: the service is one of {', '.join(SERVICES)}, not {service!r}"
                )
            if (service == "compute") != bool(node):
                raise NotUnderstood("kill: `compute@NODE`, or `api`, `scheduler`, `monitor` alone")
            return Kill(service=service, node=node or None)
        case [("power" | "network") as verb, *_]:
            raise NotUnderstood(f"{verb}: expected `{verb} NODE on|off`")
        case [verb, *_]:
            raise NotUnderstood(
                f"{verb!r} is not something this version does: power, network, kill, end"
            )
        case _:
            raise NotUnderstood("expected an action after the time")
