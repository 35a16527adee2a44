"""What the real lab adds to a scenario, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac_lab.real.errors import CannotRunHere
from evac_lab.real.guest_disks import BOOT_POOL, make_disks, with_guests
from evac_lab.scenario.reading import Scenario, from_text


def scenario(*, pool: str = "{kind: dir, nodes: [n1]}", disk: str = "{pool: shared}") -> Scenario:
    text = f"""\
name: s
nodes: {{n1: {{vcpus: 1, memory_mib: 64}}, n2: {{vcpus: 1, memory_mib: 64}}}}
pools: {{shared: {pool}}}
instances:
  with: {{vcpus: 1, memory_mib: 16, disks: [{disk}]}}
  without: {{vcpus: 1, memory_mib: 16}}
timeline: [at 1 end]
"""
    return from_text(text, "s.yaml")


def test_every_instance_gets_a_disk_that_hides_no_double_run(tmp_path: Path) -> None:
    found = with_guests(scenario())

    document = found.document
    assert document.pools[BOOT_POOL].nodes == ["n1", "n2"]
    (declared,) = document.instances["with"].manifest()["disks"]
    (added,) = document.instances["without"].manifest()["disks"]
    assert (declared["pool"], declared["shareable"]) == ("shared", True)
    assert (added["pool"], added["shareable"]) == (BOOT_POOL, True)

    made = make_disks(found, tmp_path)
    assert made == {"with": tmp_path / "with-0.raw", "without": tmp_path / "without-0.raw"}
    assert all(path.stat().st_size for path in made.values())
    assert make_disks(found, tmp_path) == made, "a history is never overwritten"


def test_a_lock_that_the_file_asks_for_stays() -> None:
    found = with_guests(scenario(disk="{pool: shared, shareable: false}"))

    assert not found.document.instances["with"].disks[0].shareable


@pytest.mark.parametrize(
    ("pool", "disk", "says"),
    [
        ("{kind: rbd, source: vms, nodes: [n1]}", "{pool: shared}", "no storage of kind rbd"),
        ("{kind: dir, source: /vms, nodes: [n1]}", "{pool: shared}", "share only /srv/evac-lab"),
        (
            "{kind: dir, source: /srv/evac-lab/../vms, nodes: [n1]}",
            "{pool: shared}",
            "share only /srv/evac-lab",
        ),
        ("{kind: dir, nodes: [n1]}", "{pool: shared, format: qcow2}", "disks are raw"),
    ],
)
def test_what_the_hosts_cannot_have_is_refused_by_name(pool: str, disk: str, says: str) -> None:
    with pytest.raises(CannotRunHere, match=says):
        with_guests(scenario(pool=pool, disk=disk))
