"""Free TCP ports on an address, for programs that want them by number."""

from __future__ import annotations

import random
import socket

from evac_lab.real.errors import LabError

# Below what Linux hands to outgoing connections (from 32768), else a port that was free when looked
# at may be taken by somebody's connection before the server listens. Random: test runs on one
# machine at the same time hardly ever try the same.
_FIRST, _LAST, _TRIES = 15000, 31999, 200


def free_ports(count: int, *, address: str = "127.0.0.1") -> tuple[int, ...]:
    """Distinct ports that nothing listens on now. Raises LabError when none is found."""
    found: dict[int, None] = {}
    for _ in range(_TRIES):
        port = random.randint(_FIRST, _LAST)
        if _is_free(address, port):
            found[port] = None
        if len(found) == count:
            return tuple(found)
    raise LabError("no free ports found", address=address)


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
