"""A lab leaves nothing behind, also when the tool that made it was killed at any moment."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from evac_lab.real import packages
from evac_lab.real.errors import LabError
from evac_lab.real.lab import RealLab

pytestmark = pytest.mark.real

_UP = """
import asyncio, sys
from pathlib import Path
from evac_lab.real.lab import RealLab

asyncio.run(RealLab(Path(sys.argv[1])).up(("h1", "h2"), lambda line: print(line, flush=True)))
print("up", flush=True)
"""


@pytest.fixture(autouse=True)
def _possible() -> None:
    if lacks := RealLab.missing():
        pytest.skip(" ".join(lacks))


def _mounts() -> list[str]:
    """This machine's mounts but ip's own folder for names, which stays from the first use on."""
    return [
        line
        for line in Path("/proc/self/mounts").read_text().splitlines()
        if line.split()[1] != "/run/netns"
    ]


@pytest.mark.parametrize("killed_after", ["network", "host", "up"])
async def test_down_works_from_another_process_after_kill9(
    short_folder: Path, killed_after: str
) -> None:
    mounts = _mounts()
    folder = short_folder / "lab"
    tool = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _UP, str(folder)), stdout=asyncio.subprocess.PIPE
    )
    assert tool.stdout is not None
    async for line in tool.stdout:
        if line.decode().startswith(killed_after):
            break
    if tool.returncode is None and killed_after != "up":
        tool.kill()
    await tool.communicate()

    lab = RealLab(folder)
    if killed_after == "up":
        assert all(host.is_on() for host in lab.hosts)
        assert await lab.broker.is_ready()
        assert await lab.database.is_ready()
    network, running = lab.network, lab.network.processes()
    await lab.down()

    assert network.namespaces() == ()
    assert not any(process.is_alive() for process in running)
    assert not folder.exists()
    assert _mounts() == mounts
    await lab.down()  # again is harmless


async def test_two_labs_at_once_do_not_meet(lab: RealLab, short_folder: Path) -> None:
    other = RealLab(short_folder / "lab", outlives_starter=False)
    await other.up(("h1",))
    try:
        assert other.facts.lab_id != lab.facts.lab_id
        assert other.host("h1").uuid != lab.host("h1").uuid
        await other.host("h1").power_off()
        assert all(host.is_on() for host in lab.hosts)
    finally:
        await other.down()
    assert await lab.broker.is_ready()


async def test_a_folder_in_use_or_a_bad_name_is_refused_and_left_alone(
    lab: RealLab, short_folder: Path
) -> None:
    (short_folder / "mine").write_text("keep")

    with pytest.raises(LabError, match="not empty"):
        await RealLab(short_folder).up(("h1",))
    with pytest.raises(LabError, match="a lab is up"):
        await RealLab(lab.directory).up(("h1",))
    with pytest.raises(LabError, match="name"):
        await RealLab(short_folder / "new").up(("h1", "no/slash"))

    assert (short_folder / "mine").read_text() == "keep"
    assert not (short_folder / "new").exists()


def test_the_packages_name_every_program() -> None:
    assert {"rabbitmq-server", "libvirt-daemon-system", "qemu-system-x86"} <= set(
        packages.APT_PACKAGES
    )
    nowhere = {"a-package": ("no-such-program",), "b-package": ("/no/such/*/program",)}
    assert packages.missing_packages((nowhere,)) == ("a-package", "b-package")
