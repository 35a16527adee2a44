"""Real hunts, small ones: they end well, they repeat, and what must not be they find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evac_lab.hunt.fingerprints import python
from evac_lab.hunt.live import live
from evac_lab.hunt.plan import Mix, Size
from evac_lab.hunt.run import Job, hunt
from evac_lab.hunt.totals import Ran, Totals
from evac_lab.scenario.reading import from_text

STORED = Path(__file__).parent / "fingerprints.json"
SMALL = Size(nodes=4, instances=8, hours=0.2)

LIAR = """
name: the-operator-lies
profile: fast
nodes:
  n1: {vcpus: 8, memory_mib: 4096}
  n2: {vcpus: 8, memory_mib: 4096, power: ipmi}
  n3: {vcpus: 8, memory_mib: 4096, power: ipmi}
pools:
  shared: {kind: nfs, nodes: [n1, n2, n3]}
instances:
  web-1: {on: n1, vcpus: 1, memory_mib: 512, disks: [{pool: shared}]}
timeline:
  - at 5 network n1 off
  - at 30 evac node confirm-down n1 --confirm n1 --reason guessed
  - at 90 end
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_small_hunt_in_two_processes_finds_nothing_and_counts_what_happened() -> None:
    jobs = [Job(seed=seed, size=SMALL, mix=mix) for seed, mix in ((1, Mix.DEATHS), (2, Mix.NODES))]
    told: list[Ran] = []

    totals = hunt(jobs, workers=2, on_ran=lambda ran, _totals: told.append(ran))

    assert [str(failure) for _, failure in totals.failures] == []
    assert sorted(ran.seed for ran in told) == [1, 2]
    assert totals.lasted_s > 2 * SMALL.end_s
    assert totals.faults["C", "power"] > 0
    assert totals.evacuations > 0


def test_after_its_time_a_hunt_begins_nothing() -> None:
    totals = hunt(
        [Job(seed=1, size=SMALL)], workers=1, on_ran=lambda _ran, _totals: None, until_s=0.0
    )

    assert totals == Totals()


@pytest.mark.timeout(120)
def test_an_operator_who_lies_makes_an_instance_run_twice_and_the_hunt_says_so() -> None:
    lived = live(from_text(LIAR, "liar.yaml"), seed=1)

    found = {failure.kind for failure in lived.failures}
    assert {"S1", "judge"} <= found
    [twice] = [failure for failure in lived.failures if failure.kind == "S1"]
    assert "web-1" in twice.sentence
    assert 30 < twice.at_s < 90


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_seed_is_the_same_run_in_any_process_directory_and_hash_seed(
    tmp_path: Path,
) -> None:
    def fingerprints(hash_seed: str, directory: Path) -> dict[str, str]:
        directory.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "TMPDIR": str(directory)}
        done = subprocess.run(
            [sys.executable, "-m", "evac_lab.hunt.fingerprints"],
            cwd=directory,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        found: dict[str, str] = json.loads(done.stdout)
        return found

    first = fingerprints("1", tmp_path / "here")
    second = fingerprints("4242", tmp_path / "a-directory-with-a-longer-name")

    assert first == second
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    assert first == stored.get(python(), first), (
        "the simulated runs changed; if that is meant, write them anew: "
        f"python -m evac_lab.hunt.fingerprints --write {STORED.relative_to(Path.cwd())}"
    )
