"""The real lab, or a loud reason why it cannot be here."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from evac_lab.real.lab import RealLab
from evac_lab.real.packages import find_program


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Sockets live in it, and their paths may have 107 characters only; tmp_path is too long."""
    folder = Path(tempfile.mkdtemp(prefix="evl-"))
    folder.chmod(0o711)  # PostgreSQL's own user passes through
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def lab() -> Iterator[RealLab]:
    """Two hosts with BMCs, a broker and a database, for all tests of a module."""
    if lacks := RealLab.missing():
        pytest.skip(" ".join(lacks))
    made = RealLab(Path(tempfile.mkdtemp(prefix="evl-")), outlives_starter=False)
    asyncio.run(made.up(("h1", "h2"), redfish=("h2",)))
    yield made
    asyncio.run(made.down())


@pytest.fixture
async def two_hosts(lab: RealLab) -> RealLab:
    """The lab with both hosts on and plugged, whatever the test before did to them."""
    for host in lab.hosts:
        host.plug()
        await host.power_on()
    return lab


@pytest.fixture
def qemu() -> str:
    found = find_program("qemu-system-x86_64")
    if found is None:
        pytest.skip("QEMU is not installed: apt-get install qemu-system-x86")
    return found
