"""Process 1 of a lab host: arranges the mounts, keeps libvirtd running, reaps orphans.

Programs of the host's `units` folder are started once per boot, whoever switched the host on:
`NAME.json` holds `argv` and `environment`; what they say is in `NAME.log`.

Run by path with the plain interpreter and the standard library, in fresh mount, UTS, IPC and
process namespaces: `python -I -S host_init.py HOST_DIRECTORY`. When it dies, the kernel kills
everything in the host: that is the power cut. SIGTERM is the power button: everybody gets SIGTERM
and ten seconds. Nothing here survives in the machine's own mount table.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

_MS_READ_ONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
# What a host has for itself: its folder -> where its programs look for it.
OWN_FOLDERS = {
    "run": "/run",
    "etc": "/etc/libvirt",
    "varlib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}
SHARED = "/srv/evac-lab"
ORDERLY_S = 10.0
# As an init system would restart it; QEMU processes survive its death meanwhile.
LIBVIRTD_RESTART_S = 1.0


class PowerButton(BaseException):
    """Somebody asked the host to shut down."""


def main() -> NoReturn:
    directory = Path(sys.argv[1])
    facts = json.loads((directory / "host.json").read_text())
    signal.signal(signal.SIGTERM, _press)
    try:
        socket.sethostname(facts["name"])
        _arrange(directory, Path(facts["shared"]), hide_kvm=not facts["kvm"])
        _keep_running(directory)
    except PowerButton:
        _shut_down()
    sys.exit(0)


def _press(_number: int, _frame: FrameType | None) -> NoReturn:
    raise PowerButton


def _arrange(directory: Path, shared: Path, *, hide_kvm: bool) -> None:
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("proc", "/proc", "proc", 0)
    _bind(directory / "boot_id", "/proc/sys/kernel/random/boot_id")
    # A tmpfs, as making a mount point in the machine's own /srv would leave a trace of the lab.
    _mount("tmpfs", "/srv", "tmpfs", 0)
    Path(SHARED).mkdir()
    _bind(shared, SHARED)
    if hide_kvm and Path("/dev/kvm").exists():
        # A plain file on a read-only mount is what even root has no access to. Any device would
        # look usable to libvirtd, which would then ask QEMU anew, for seconds, at every start.
        _bind(directory / "no_kvm", "/dev/kvm")
        _mount(None, "/dev/kvm", None, _MS_BIND | _MS_REMOUNT | _MS_READ_ONLY)
    if Path("/sys/fs/cgroup").is_dir():
        _mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0)
    for folder, place in OWN_FOLDERS.items():
        _bind(directory / folder, place)
    # libvirtd looks up its own name at every start of a guest: the machine's name server is out of
    # reach here, and each look-up would take ten seconds.
    if Path("/etc/hosts").exists():
        _bind(directory / "hosts", "/etc/hosts")
    if Path("/etc/resolv.conf").exists():
        _bind(Path("/dev/null"), "/etc/resolv.conf")


def _keep_running(directory: Path) -> NoReturn:
    libvirtd = _start_libvirtd(directory)
    units = _start_units(directory)
    while True:
        pid, _status = os.wait()
        if pid == libvirtd.pid:
            libvirtd.returncode = 0  # reaped by us: Popen must not wait for this number again
            time.sleep(LIBVIRTD_RESTART_S)
            libvirtd = _start_libvirtd(directory)
        elif pid in units:
            units.pop(pid).returncode = 0


def _start_units(directory: Path) -> dict[int, subprocess.Popen[bytes]]:
    started = {}
    for unit in sorted((directory / "units").glob("*.json")):
        wanted = json.loads(unit.read_text())
        with (directory / f"{unit.stem}.log").open("ab") as log:
            child = subprocess.Popen(
                wanted["argv"],
                env={"PATH": os.environ["PATH"], **wanted["environment"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started[child.pid] = child
    return started


def _start_libvirtd(directory: Path) -> subprocess.Popen[bytes]:
    with (directory / "log" / "libvirtd.out").open("ab") as log:
        return subprocess.Popen(
            ["libvirtd", "--listen", "--timeout", "0"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _shut_down() -> None:
    """SIGTERM to all but ourselves, and wait until nobody is left or ten seconds are over.

    Not only our children: who entered from outside has its parent there, and is killed with us.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(-1, signal.SIGTERM)
    ends = time.monotonic() + ORDERLY_S
    while time.monotonic() < ends:
        _reap()
        try:
            os.kill(-1, 0)  # asks whether there is anybody
        except ProcessLookupError:
            return
        time.sleep(0.02)  # between two looks: who is left tells pid 1 nothing when it ends


def _reap() -> None:
    """Bury the children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        return


def _bind(source: Path, target: str) -> None:
    _mount(str(source), target, None, _MS_BIND)


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    given = [None if part is None else part.encode() for part in (source, target, kind)]
    if libc.mount(*given, ctypes.c_ulong(flags), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


if __name__ == "__main__":
    main()
