"""Scenario files: what is accepted, and how every mistake is named."""

from __future__ import annotations

import pytest

from evac_common.cli.document import DocumentInvalid
from evac_lab.real.actions import refuse_what_no_real_lab_does
from evac_lab.scenario import expect, forms, verbs
from evac_lab.scenario.reading import from_text
from evac_lab.scenario.timeline import (
    Action,
    Command,
    Database,
    DatabaseState,
    Direction,
    End,
    GuestAct,
    GuestWhat,
    Identity,
    Kill,
    Network,
)

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
        ("network n1 off", "cut n1", "timeline.0.: 'cut' is no action; known are power, .*cut n1"),
        ("network n1 off", "network n1 away", "network: expected `network ENDPOINT off"),
        ("network n1 off", "network n9 off", "'n9' is not declared under nodes, nor is it api"),
        ("network n1 off", "network n1 off from n9", "'n9' is not declared under nodes"),
        ("network n1 off", "network n1 off from n1", "is both ends of the way"),
        ("network n1 off", "network n1 off from database", "a node never talks to the database"),
        ("network n1 off", "network api off from storage", "only nodes talk to the storage"),
        ("network n1 off", "network compute@n1 off", "the endpoint is a node or api, scheduler"),
        ("network n1 off", "network n1 off from monitor", "the peer is a node or broker"),
        ("network n1 off", "network n1 off up", "network: expected `network ENDPOINT"),
        ("network n1 off", "power n9 off", "good.yaml:11: timeline.0.: 'n9' is not declared"),
        ("network n1 off", "bmc n1 broken", "bmc: expected `bmc NODE off"),
        ("network n1 off", "guest web-9 crash", "'web-9' is not declared under instances"),
        ("network n1 off", "guest web-1 crash 2", "guest: expected `guest INSTANCE poweroff"),
        ("network n1 off", "guest web-1 die-early 0", "TIMES is from 1 to 1000, not '0'"),
        ("network n1 off", "bus lose 101", "PERCENT is a number from 0 to 100, not '101'"),
        ("network n1 off", "bus calm 5", "bus: expected `bus lose"),
        ("network n1 off", "clock n1 rate nan", "PERCENT is a number from -50 to 50, not 'nan'"),
        ("network n1 off", "clock broker jump 5", "'broker' is not declared under nodes, nor is"),
        ("network n1 off", "identity n1 of n1", "identity: expected `identity NODE of NODE2`"),
        ("network n1 off", "disk n1 restore", "no `disk n1 save` comes before it"),
        ("network n1 off", "database restore", "no `database save` comes before it"),
        ("network n1 off", "database lose-ack many", "TIMES is from 1 to 1000, not 'many'"),
        (
            "network n1 off",
            "evac node shoot n1",
            "`evac node shoot` is no command; known are .*fence",
        ),
        ("network n1 off", "evac node", "`evac node` needs one of .*fence"),
        (
            "network n1 off",
            "evac node fence n1 --reason smoke: rack",
            r"timeline\[0\]: is one line of text; put it in quotes",
        ),
        ("network n1 off", "evac node fence n1", "`evac node fence`: Missing option '--reason'"),
        (
            "network n1 off",
            "evac node fence n1 --why x",
            "`evac node fence`: No such option: --why",
        ),
        ("network n1 off", "evac node fence", "`evac node fence`: Missing argument 'NAME'"),
        (
            "network n1 off",
            "evac instance create web-2 --vcpus two --memory 1GiB",
            "`evac instance create`: Invalid value for '--vcpus'",
        ),
        ("network n1 off", "evac node fence 'n1", "cannot be split into words"),
        ("kill compute@n2", "kill compute", "`compute@NODE`"),
        (
            "kill compute@n2",
            "kill monitor-2",
            "'monitor-2' does not exist: `replicas` gives monitor 1",
        ),
        ("kill compute@n2", "hang monitor@n2", "monitor runs on no node"),
        ("kill compute@n2", "stop compute@n9", "'n9' is not declared under nodes"),
        ("kill compute@n2", "kill monitor-0", "the service is one of"),
        (
            "name: cut-off",
            "name: cut-off\nreplicas: {monitor: 4}",
            "replicas.monitor: .*equal to 3",
        ),
        ("name: cut-off", "name: cut-off\nreplicas: {compute: 2}", "replicas.compute: .*permitted"),
        (
            "  n2: {vcpus: 32, memory_mib: 131072}",
            "  n2: {vcpus: 32, memory_mib: 131072}\n  monitor: {vcpus: 1, memory_mib: 64}",
            "good.yaml:6: nodes.monitor: a node cannot bear the name of a service",
        ),
        ("kill compute@n2", "kill postgres", "the service is one of"),
        ("at 130 kill", "at 100 kill", "before the line above it"),
        ("  - at 300 end\n", "", "`at SECONDS end`"),
        ("running on n2", "walking on n2", "expect.0.: expected one of `instance NAME running"),
        ("running on n2", "running on n9", "expect.0.: 'n9' is not declared under nodes"),
        ("no violations", "node n1 dead", "one of new, joining, .*, not 'dead'"),
        ("no violations", "event node.dead", "'node.dead' is no event; known are .*node.down"),
        ("no violations", "event node.down of n9 1", "'n9' is declared under neither nodes nor"),
        ("no violations", "evacuations few", "a count is a number from 0 on, not 'few'"),
        ("monitor.fence_after_s", "guard.fence_after_s", "SERVICE one of"),
        ("monitor.fence_after_s: 20", "monitor.fencing: 20", "evac-monitor has no such setting"),
        (
            "monitor.fence_after_s: 20",
            "monitor.fence_after_s: 9",
            r"settings: monitor: does not hold: fence_after_s \(9\) >= 2 suspect_after_s \(16\)",
        ),
        ("power: ipmi", "power: ilo", "nodes.n1.power: .*'ilo'"),
        (
            "power: ipmi",
            "power: {kind: ipmi, address: bmc-n1, system: /redfish/v1/Systems/1}",
            "nodes.n1.power.*system: is for redfish",
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


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (
            "network n1 off from broker in",
            Network(endpoint="n1", on=False, peer="broker", direction=Direction.IN),
        ),
        (
            "network monitor-2 on",
            Network(endpoint="monitor-2", on=True, peer=None, direction=Direction.BOTH),
        ),
        ("database lose-ack", Database(state=DatabaseState.LOSE_ACK, times=1)),
        ("database lose-ack 7", Database(state=DatabaseState.LOSE_ACK, times=7)),
        (
            "guest web-1 refuse-start 3",
            GuestAct(instance="web-1", what=GuestWhat.REFUSE_START, times=3),
        ),
        ("identity n2 own", Identity(node="n2", of=None)),
        ("kill  compute@n2", Kill(service="compute", node="n2")),
        (
            'evac? node fence n1 --reason "no  light"',
            Command(argv=("node", "fence", "n1", "--reason", "no  light"), may_fail=True),
        ),
    ],
)
def test_a_line_is_read_as_its_value(text: str, action: Action) -> None:
    step = verbs.parse_step(f"at 12.5 {text}")

    assert step.action == action
    assert step.at_s == 12.5


@pytest.mark.parametrize("form", forms.FORMS, ids=[form.form for form in forms.FORMS])
def test_the_example_of_every_action_is_that_action(form: forms.Form) -> None:
    step = verbs.parse_step(form.example)

    assert step.text.split()[0] == form.verb


def test_every_action_is_explained_and_no_other() -> None:
    assert {form.verb for form in forms.FORMS} == {*verbs.VERBS, "evac?"}


@pytest.mark.parametrize("form", expect.FORMS, ids=[form.form for form in expect.FORMS])
def test_the_example_of_every_expectation_can_be_read(form: forms.Form) -> None:
    expect.parse_expectation(form.example)


def test_a_replica_of_the_file_can_be_named() -> None:
    text = GOOD.replace("kill compute@n2", "kill monitor-2").replace(
        "name: cut-off", "name: cut-off\nreplicas: {monitor: 2}"
    )

    assert from_text(text, "good.yaml").document.replicas.of("monitor") == 2


@pytest.mark.parametrize(
    "line", ["broker off", "kill monitor-1", "network n1 off in", "network api off", "hang api"]
)
def test_a_real_lab_refuses_by_line_what_it_cannot_do(line: str) -> None:
    refuse_what_no_real_lab_does(from_text(GOOD, "good.yaml"))

    scenario = from_text(GOOD.replace("kill compute@n2", line), "good.yaml")
    with pytest.raises(DocumentInvalid, match=f"good.yaml:12: .*a real lab cannot.*got '{line}'"):
        refuse_what_no_real_lab_does(scenario)


def test_a_real_lab_refuses_more_than_one_monitor() -> None:
    text = GOOD.replace("name: cut-off", "name: cut-off\nreplicas: {monitor: 2}")

    with pytest.raises(DocumentInvalid, match=r"replicas.monitor: .*one of each controller .got 2"):
        refuse_what_no_real_lab_does(from_text(text, "good.yaml"))


FOUND = expect.Found(
    running_on={"web-1": ["n2"], "web-2": ["n1"]},
    lives={"web-1": 2, "web-2": 1, "web-3": 1},
    node_states={"n1": "up"},
    reasons={"web-3": "pending: no node fits"},
    events=[
        {"name": "node.down", "data": {"node": "n1"}},
        {"name": "evacuation.opened", "data": {"node": "n1"}},
    ],
    violations=["web-9 ran twice"],
)


@pytest.mark.parametrize(
    ("line", "holds"),
    [
        ("instance web-1 running on n2", True),
        ("instance web-1 running on n1", False),
        ("instance web-3 running", False),
        ("instance web-3 stopped", True),
        ("instance web-1 stopped", False),
        ("instance web-3 waiting", True),
        ("instance web-3 waiting no node", True),
        ("instance web-3 waiting local_storage", False),
        ("instance web-1 waiting", False),
        ("instance web-4 waiting", False),
        ("instance web-2 not restarted", True),
        ("instance web-1 not restarted", False),
        ("instance web-3 not restarted", False),
        ("node n1 up", True),
        ("node n1 fenced", False),
        ("event node.down", True),
        ("event node.down 1", True),
        ("event node.down of n1", True),
        ("event node.down of n2", False),
        ("event node.down 2", False),
        ("event node.up 0", True),
        ("no event node.up", True),
        ("no event node.down", False),
        ("no event node.down of n2", True),
        ("evacuations 1", True),
        ("evacuations 0", False),
        ("no violations", False),
    ],
)
def test_an_expectation_holds_or_says_why_not(line: str, holds: bool) -> None:
    sentences = expect.failures([expect.parse_expectation(line)], FOUND)

    assert (sentences == []) is holds
