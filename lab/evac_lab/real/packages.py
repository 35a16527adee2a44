"""The Debian and Ubuntu packages of the real lab: `python3 -m evac_lab.real.packages` prints them.

Standard library only, and no import from evac, so that the list can be printed before anything is
installed: `apt-get install --no-install-recommends $(python3 lab/evac_lab/real/packages.py)`.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence

SERVERS: dict[str, tuple[str, ...]] = {
    "rabbitmq-server": ("/usr/lib/rabbitmq/bin/rabbitmq-server",),
    "postgresql": ("/usr/lib/postgresql/*/bin/initdb",),
    "util-linux": ("setpriv", "nsenter", "unshare", "mount"),
}
HOSTS: dict[str, tuple[str, ...]] = {
    "libvirt-daemon-system": ("libvirtd",),
    "libvirt-clients": ("virsh",),
    "qemu-system-x86": ("qemu-system-x86_64",),
    "qemu-utils": ("qemu-img",),
    "iproute2": ("ip",),
    "nftables": ("nft",),
    "nasm": ("nasm",),
    "ipmitool": ("ipmitool",),
}
# libvirt-python comes as source only: these build it.
BUILD: dict[str, tuple[str, ...]] = {
    "libvirt-dev": ("/usr/include/libvirt/libvirt.h",),
    "pkg-config": ("pkg-config",),
    "gcc": ("gcc",),
}

APT_PACKAGES: tuple[str, ...] = tuple(sorted({*SERVERS, *HOSTS, *BUILD}))

# Debian keeps administrators' programs out of an ordinary user's PATH.
_PATH = os.pathsep.join(
    (os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin")
)


def find_program(name: str) -> str | None:
    """The path of a program by name or by glob; of several versions the newest. None: absent."""
    if "/" not in name:
        return shutil.which(name, path=_PATH)
    found = sorted(glob.glob(name), key=_version_order)  # noqa: PTH207 - an absolute pattern
    return found[-1] if found else None


def missing_packages(groups: Iterable[Mapping[str, Sequence[str]]]) -> tuple[str, ...]:
    """Packages of `groups` of which at least one program is absent, sorted."""
    wanted = {package: programs for group in groups for package, programs in group.items()}
    return tuple(
        sorted(
            package
            for package, programs in wanted.items()
            if any(find_program(program) is None for program in programs)
        )
    )


def _version_order(path: str) -> tuple[tuple[int, ...], str]:
    numbers = (part for part in path.split("/") if part.replace(".", "").isdigit())
    return tuple(int(number) for part in numbers for number in part.split(".")), path


if __name__ == "__main__":
    print(" ".join(APT_PACKAGES))
