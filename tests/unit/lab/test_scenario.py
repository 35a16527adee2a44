"""Scenario files: what is accepted, and how every mistake is named."""

from __future__ import annotations

import pytest

from evac_common.cli.document import DocumentInvalid
from evac_lab.scenario.reading import from_text
from evac_lab.scenario.timeline import End, Kill, Network

GOOD = """\
name: cut-off
settings: {monitor.fence_after_s: 20}
nodes:
  n1: {vcpus: 32, memory_mib: 131072, labels: {zone: a}, power: ipmi}
  n2: {vcpus: 32, memory_mib: 131072}
pools:
  shared: {kind: dir, nodes: [n1, n2]}
instances:
  web-1: {on: n1, vcpus: 2, memory_mib: 2048, disks: [{pool: shared}]}
timeline:
  - at 120 network n1 off
  - at 130 kill compute@n2
  - at 300 end
expect:
  - instance web-1 running on n2
  - no violations
"""


def test_a_good_file_is_read_whole() -> None:
    scenario = from_text(GOOD, "good.yaml")

    assert [type(step.action) for step in scenario.steps] == [Network, Kill, End]
    assert scenario.settings_of("monitor") == {"fence_after_s": 20}
    assert scenario.document.instances["web-1"].on == "n1"
    assert "on" not in scenario.document.instances["web-1"].manifest()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "vcpus: 2,",
            "vcpus: -2,",
            "good.yaml:9: instances.web-1.vcpus: .*greater than or equal to 1.*-2",
        ),
        ("name: cut-off", "name: cut-off\ncolour: red", "good.yaml:2: colour: .*not permitted"),
        ("on: n1,", "on: n9,", "good.yaml:9: instances.web-1.on: 'n9' is not declared under nodes"),
        (
            "{pool: shared}",
            "{pool: other}",
            r"disks\[0\].pool: 'other' is not declared under pools",
        ),
        (
            "  n2: {vcpus: 32, memory_mib: 131072}",
            "  n1: {vcpus: 1, memory_mib: 64}",
            "nodes.n1: is given twice",
        ),
        ("network n1 off", "storage n1 off", "'storage' is not something this version does"),
        ("network n1 off", "network n1 away", "expected `network NODE on|off`"),
        ("kill compute@n2", "kill compute", "`compute@NODE`"),
        ("kill compute@n2", "kill postgres", "the service is one of"),
        ("at 130 kill", "at 100 kill", "before the line above it"),
        ("  - at 300 end\n", "", "`at SECONDS end`"),
        ("running on n2", "walking on n2", "expected `instance NAME running"),
        ("monitor.fence_after_s", "guard.fence_after_s", "SERVICE one of"),
        ("monitor.fence_after_s: 20", "monitor.fencing: 20", "evac-monitor has no such setting"),
        (
            "monitor.fence_after_s: 20",
            "monitor.fence_after_s: 9",
            r"settings: monitor: does not hold: fence_after_s \(9\) >= 2 suspect_after_s \(16\)",
        ),
        ("power: ipmi", "power: redfish", "nodes.n1.power: only ipmi is supported .*'redfish'"),
        (
            "power: ipmi",
            "power: {kind: redfish, address: bmc-n1}",
            "nodes.n1.power.kind: only ipmi is supported .*'redfish'",
        ),
        ("on: n1,", "run_strategy: Once,", "good.yaml:9: .*run_strategy: only Always and Halted"),
        ("vcpus: 2, ", "", "good.yaml:9: instances.web-1.vcpus: is required$"),
        ("name: cut-off", "name: cut-off\npolicies: []", "policies are not supported"),
        ("nodes:\n", "nodes: [\n", "not YAML"),
    ],
)
def test_a_mistake_names_its_line_field_and_rule(old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(DocumentInvalid, match=said):
        from_text(GOOD.replace(old, new), "good.yaml")
