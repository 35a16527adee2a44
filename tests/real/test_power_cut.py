"""One scenario file on libvirt hosts and under simulation: same placement, and the disks agree.

Nothing in these runs is simulated but the hardware, and what ran is not asked of any program of
ours or of libvirt: it is read from the disks that the guests themselves write.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from rich.console import Console

import evac_lab.scenarios
from evac_lab.real.errors import NotReady
from evac_lab.real.labs import run_on_libvirt
from evac_lab.real.libvirt_cluster import LibvirtCluster, missing
from evac_lab.real.processes import until
from evac_lab.real.witness import Proof
from evac_lab.restarts import print_restarts, restarts
from evac_lab.runner import Outcome, Runner
from evac_lab.scenario.reading import Scenario, read
from evac_lab.simulated.run import Doubles, simulate

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(400)]

SCENARIOS = Path(evac_lab.scenarios.__path__[0])
VICTIMS = ["db-1", "job-1", "job-2", "web-1", "web-2"]


@pytest.fixture
def base() -> Iterator[Path]:
    """Where this test's labs are; sockets live in it, so its path is short."""
    if lacks := missing():
        pytest.skip(" ".join(lacks))
    folder = Path(tempfile.mkdtemp(prefix="evl-"))
    folder.chmod(0o711)  # PostgreSQL's user passes through
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Traces:
    """What a lab has in the kernel while it runs, to look for it afterwards."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._lab = ""
        self._networks: set[str] = set()

    def note(self) -> None:
        for mark in self._base.glob("*/lab.json"):
            self._lab = json.loads(mark.read_text())["lab_id"]
        for namespace in self._namespaces():
            self._networks.add(f"net:[{namespace.stat().st_ino}]")

    @property
    def networks(self) -> int:
        return len(self._networks)

    def left(self) -> list[str]:
        """Processes, namespaces, mounts and files that are still there."""
        mounts = [line for line in _lines("/proc/self/mounts") if str(self._base) in line]
        files = list(self._base.glob("*"))
        return [*map(str, self._namespaces()), *mounts, *map(str, files), *self._processes()]

    def _namespaces(self) -> list[Path]:
        assert self._lab, "the lab was seen while it ran"
        return list(Path("/run/netns").glob(f"evac-{self._lab}-*"))

    def _processes(self) -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                network = str((entry / "ns" / "net").readlink())
            except PermissionError:
                network = ""  # a stranger, where even root may not look at everybody
            except (FileNotFoundError, ProcessLookupError):
                continue
            if network in self._networks or str(self._base) in words:
                found.append(f"process {entry.name}: {words}")
        return found


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _simulated(scenario: Scenario) -> Outcome:
    with structlog.testing.capture_logs():
        return simulate(
            scenario,
            seed=1,
            on_line=lambda _line: None,
            on_picture=None,
            progress=lambda _text: None,
            doubles=Doubles(),
        )


def _placement(outcome: Outcome) -> dict[str, str | None]:
    return {name: history.node for name, history in outcome.judgement.histories.items()}


def _real(scenario: Scenario, base: Path, traces: Traces) -> tuple[Outcome, Proof]:
    return run_on_libvirt(
        scenario,
        on_line=print,
        on_picture=lambda _picture: traces.note(),
        progress=print,
        base=base,
    )


@pytest.mark.parametrize("name", ["power-cut", "network-cut"])
def test_a_dead_hosts_guests_run_elsewhere_each_once(
    name: str, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = read(SCENARIOS / f"{name}.yaml")
    simulated = _simulated(scenario)
    traces = Traces(base)

    real, proof = _real(scenario, base, traces)

    assert (real.failed, real.judgement.violations) == ([], [])
    assert (simulated.failed, simulated.judgement.violations) == ([], [])
    assert _placement(real) == _placement(simulated)
    assert (proof.disks, proof.ran_twice) == (6, ())
    found = restarts(real)
    assert [(one.instance, one.from_node) for one in found] == [(it, "n1") for it in VICTIMS]
    with capsys.disabled():
        Console().print(f"\n{name}: {proof}", highlight=False)
        print_restarts(Console(), found)
    assert traces.networks == 5, "a switch, the control site and three hosts were seen"
    assert traces.left() == []
    if name == "network-cut":
        _guests_ran_until_the_power_was_cut(real)


async def test_what_is_killed_or_switched_on_again_comes_back(base: Path) -> None:
    """kill -9 of a daemon touches no guest; a node with power again is up with nothing on it."""
    scenario = replace(read(SCENARIOS / "power-cut.yaml"), expectations=())
    async with LibvirtCluster.running(scenario, directory=base / "lab") as cluster:
        runner = Runner(
            cluster=cluster,
            scenario=cluster.scenario,
            on_line=print,
            on_picture=None,
            progress=print,
        )
        await runner.bring_up()
        before = {life.instance for life in await cluster.executions() if life.ended_s is None}
        for service in ("api", "scheduler", "monitor"):
            await cluster.kill(service, None)
        killed = cluster.daemon("n1")
        await cluster.kill("compute", "n1")
        await cluster.plane.wait_ready()
        await until(lambda: cluster.daemon("n1") not in (None, killed), deadline_s=20, what="n1")
        await cluster.power("n2", on=False)
        assert cluster.hardware("n2") == ("off", "ok")
        assert cluster.daemon("n2") is None
        await cluster.power("n2", on=True)

        seen: list[str] = []

        async def all_is_well() -> bool:
            if cluster.hardware("n2") == ("off", "ok"):
                # Its boot took longer than fence_after_s of this profile, so it was cut off again.
                await cluster.power("n2", on=True)
            nodes = (await cluster.api.get("/v1/nodes")).json()["items"]
            lives = await cluster.executions()
            restarted = len([life for life in lives if life.instance == "api-1"]) == 2
            alive = {life.instance for life in lives if life.ended_s is None}
            states = [node["state"] for node in nodes]
            seen[:] = [*map(str, lives), *(f"{node['name']}: {node['reason']}" for node in nodes)]
            return restarted and alive == before and states == ["up"] * 3

        try:
            await until(all_is_well, deadline_s=60, what="all up, all alive", every_s=0.5)
        except NotReady as error:
            pytest.fail("\n".join([str(error), *seen]))
        lives = await cluster.executions()
        assert sorted(life.instance for life in lives if life.node == "n1") == VICTIMS
        assert (await cluster.proof()).ran_twice == ()


def _guests_ran_until_the_power_was_cut(outcome: Outcome) -> None:
    """Alive and unseen for seconds: only the BMC ended them, and only then did others start."""
    begun_s = next(line.at_s for line in outcome.lines if line.what == "node n1: fencing")
    proven_s = next(line.at_s for line in outcome.lines if line.what.startswith("node n1: dead"))
    for victim in VICTIMS:
        lives = [life for life in outcome.executions if life.instance == victim]
        first, second = sorted(lives, key=lambda life: life.started_s)
        assert first.ended_s is not None
        assert begun_s - 1.0 < first.ended_s < proven_s < second.started_s
