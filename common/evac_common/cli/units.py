"""Sizes, times and pairs as people type them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from evac_common.cli.failures import WrongUse

_MEMORY = re.compile(r"^([0-9]+)\s*(MiB|GiB|TiB)$")
_SPAN = re.compile(r"^([0-9]+(?:\.[0-9]+)?)\s*(s|m|min|h|d)?$")
_MIB = {"MiB": 1, "GiB": 1024, "TiB": 1024 * 1024}
_SECONDS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def mib(text: str) -> int:
    """`512MiB`, `128GiB` → MiB. Raises WrongUse."""
    match = _MEMORY.match(text.strip())
    if match is None:
        raise WrongUse(f"{text!r} is not a size: write 512MiB, 128GiB or 1TiB")
    return int(match[1]) * _MIB[match[2]]


def seconds(text: str) -> float:
    """`90`, `90s`, `15min`, `2h`, `1d` → seconds. Raises WrongUse."""
    match = _SPAN.match(text.strip())
    if match is None:
        raise WrongUse(f"{text!r} is not a time: write 90s, 15min, 2h or 1d")
    return float(match[1]) * _SECONDS[match[2]]


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """`key=value` options as a map. Raises WrongUse, also for a key given twice."""
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise WrongUse(f"{option}: {text!r} is not KEY=VALUE")
        if key in found:
            raise WrongUse(f"{option}: {key} is given twice")
        found[key] = value
    return found
