"""Same seed, same history: in any process, under any hash seed, from any directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = """
name: determinism
profile: fast
replicas: {scheduler: 2}
nodes:
  n1: {vcpus: 8, memory_mib: 8192, power: ipmi}
  n2: {vcpus: 8, memory_mib: 8192, power: ipmi}
  n3: {vcpus: 8, memory_mib: 8192, power: ipmi}
instances:
  web-1: {on: n1, vcpus: 1, memory_mib: 512, run_strategy: Always}
  web-2: {on: n2, vcpus: 1, memory_mib: 512, run_strategy: Always}
timeline:
  - at 1 bus lose 10
  - at 1 bus duplicate 10
  - at 2 database slow
  - at 3 power n1 off
  - at 5 kill scheduler-1
  - at 6 hang monitor-1
  - at 12 resume monitor-1
  - at 13 database on
  - at 14 bus calm
  - at 20 end
"""
PROGRAM = """
import sys
from pathlib import Path
from evac_lab.scenario.reading import read
from evac_lab.simulated.run import Doubles, simulate

async def tell(cluster):
    for machine in cluster.machines.values():
        for entry in machine.hypervisor.core.log:
            say(entry)
    say(cluster.digest)

def say(what):
    print("history:", what)

outcome = simulate(
    read(Path(sys.argv[1])), seed=int(sys.argv[2]), on_line=say, on_picture=None,
    progress=lambda text: None, doubles=Doubles(), epilogue=tell,
)
"""


def _history(file: Path, place: Path, *, seed: int, hash_seed: str) -> str:
    place.mkdir()
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "TMPDIR": str(place)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file), str(seed)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    # The services' own logs go to stdout as well, and name objects by their addresses.
    return "\n".join(line for line in done.stdout.splitlines() if line.startswith("history:"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_seed_is_the_same_history_wherever_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "determinism.yaml"
    file.write_text(SCENARIO, encoding="utf-8")

    one = _history(file, tmp_path / "a", seed=3, hash_seed="0")
    again = _history(file, tmp_path / "b", seed=3, hash_seed="4242")
    other = _history(file, tmp_path / "c", seed=4, hash_seed="0")

    assert "GuestRun" in one
    assert one == again
    assert one != other
