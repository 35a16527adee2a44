from __future__ import annotations

import asyncio
import re
import stat
import tomllib
from pathlib import Path

import pytest

from evac_common.model.states import NodeState, Phase
from evac_compute.adapters.host import read_node_file
from tests.unit.api.cluster import Cluster, instance
from tests.unit.cli.shell import Shell, until_pending

MANIFEST = """\
pools:
  shared: {kind: nfs, source: /srv/vm, nodes: [n1, n2]}
instances:
  web-1: {vcpus: 2, memory_mib: 2048, disks: [{pool: shared}]}
  web-2: {vcpus: 2, memory_mib: 2048, run_strategy: Halted}
"""


@pytest.fixture
def evac(cluster: Cluster) -> Shell:
    return Shell.of(cluster)


async def enrol(evac: Shell, *names: str) -> None:
    for name in names:
        await evac.ok("node", "enrol", name, "--vcpus", "16", "--memory", "64GiB")


async def test_enrolling_prints_one_node_toml(evac: Shell) -> None:
    ran = await evac.ok(
        "node", "enrol", "n1", "--vcpus", "16", "--memory", "64GiB", "--label", "zone=a"
    )

    values = tomllib.loads(ran.out)
    assert set(values) == {"node_id", "name", "bus_url", "user", "secret"}
    assert values["user"] == f"compute-{values['node_id']}"
    node = (await evac.ok("node", "show", "n1", "--json")).json
    assert (node["memory_mib"], node["labels"]) == (65536, {"zone": "a"})


async def test_the_nodes_daemon_reads_what_enrolment_printed(evac: Shell, tmp_path: Path) -> None:
    path = tmp_path / "node.toml"

    await evac.ok("node", "enrol", "n1", "--vcpus", "1", "--memory", "1GiB", "-o", str(path))
    found = read_node_file(path)

    node = (await evac.ok("node", "show", "n1", "--json")).json
    assert (found.node_id, found.name) == (node["id"], "n1")
    assert found.account_url().startswith(f"amqp://compute-{node['id']}:")


async def test_enrolling_into_a_file_keeps_it_for_root_and_overwrites_nothing(
    evac: Shell, tmp_path: Path
) -> None:
    path, password = tmp_path / "node.toml", tmp_path / "password"
    password.write_text("hunter2\n")
    power = ["--power", "ipmi", "--power-address", "10.0.0.1", "--power-user", "admin"]
    command = ["node", "enrol", "n1", "--vcpus", "1", "--memory", "1GiB", "-o", str(path)]

    ran = await evac.ok(*command, *power, "--power-password-file", str(password))
    again = await evac("node", "enrol", "n2", *command[3:])

    assert ran.out == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert tomllib.loads(path.read_text())["name"] == "n1"
    assert (again.code, "exists already" in again.err) == (2, True)
    assert (await evac("node", "show", "n2")).code == 1
    shown = (await evac.ok("node", "show", "n1", "--json")).json
    assert shown["power"]["has_password"] is True


async def test_enrolling_a_node_with_a_redfish_bmc(evac: Shell) -> None:
    power = ["--power", "redfish", "--power-address", "10.0.0.1", "--power-tls-sha256", "AB" * 32]
    system = ["--power-system", "/redfish/v1/Systems/2"]

    await evac.ok("node", "enrol", "n1", "--vcpus", "1", "--memory", "1GiB", *power, *system)
    refused = await evac("node", "enrol", "n2", "--vcpus", "1", "--memory", "1GiB", *power[2:])

    shown = (await evac.ok("node", "show", "n1", "--json")).json["power"]
    assert (shown["kind"], shown["port"], shown["system"]) == ("redfish", 443, system[1])
    assert shown["tls_sha256"] == "ab" * 32
    assert "--power-... needs --power ipmi or --power redfish" in refused.err


async def test_apply_says_what_it_did(evac: Shell, tmp_path: Path) -> None:
    await enrol(evac, "n1", "n2")
    path = tmp_path / "site.yaml"
    path.write_text(MANIFEST)

    first = await evac.ok("apply", "-f", str(path))
    path.write_text(MANIFEST.replace("Halted", "Always"))
    second = await evac.ok("apply", "-f", str(path))

    assert first.out == "pool shared: created\ninstance web-1: created\ninstance web-2: created\n"
    assert second.out == "instance web-2: changed\n2 unchanged\n"


async def test_apply_takes_several_files_as_one_transaction(evac: Shell, tmp_path: Path) -> None:
    await enrol(evac, "n1")
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("pools:\n  p: {kind: dir, source: /vm, nodes: [n1]}\n")
    two.write_text("instances:\n  a: {vcpus: 1, memory_mib: 64, disks: [{pool: p}]}\n")

    await evac.ok("apply", "-f", str(one), "-f", str(two))
    refused = await evac("apply", "-f", str(two), "-f", str(two))

    assert refused.code == 2
    assert f"{two}:2: instances.a: is given twice, first at {two}:2" in refused.err


YAML = [
    ("instances:\n  a: {vcpus: 1}\n  a: {vcpus: 2}\n", 2, "3: instances.a: is given twice"),
    (
        "instances:\n  a:\n    vcpus: 1\n    memory_mib: -4\n",
        1,
        "4: instances.a.memory_mib: Input should be greater than or equal to 2 (got -4)",
    ),
    (
        "instances:\n  a: {vcpus: 1, memory_mib: 64,\n      disks: [{pool: none}]}\n",
        1,
        "3: instances.a.disks[0].pool: no such pool (got 'none')",
    ),
    ("nodes:\n  n9: {vcpus: 1, memory_mib: 64}\n", 1, "2: nodes.n9: is not enrolled: enrol first"),
    ("policies:\n  - {kind: anti-affinity}\n", 1, "1: policies: policies are not supported"),
    ("instances: [\n", 2, ": not YAML"),
    ("- a\n", 2, "1: a document is a map"),
    ("instances: !!python/name:os.system x\n", 2, ":1"),
]


@pytest.mark.parametrize(("text", "code", "message"), YAML)
async def test_a_wrong_file_is_refused_with_its_line(
    evac: Shell, cluster: Cluster, tmp_path: Path, text: str, code: int, message: str
) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    before = await cluster.counts()

    ran = await evac("apply", "-f", str(path))

    assert ran.code == code, ran
    assert message in ran.err
    assert str(path) in ran.err
    assert "Traceback" not in ran.err
    assert await cluster.counts() == before


async def test_delete_waits_until_the_instances_are_gone(
    evac: Shell, cluster: Cluster, tmp_path: Path
) -> None:
    await enrol(evac, "n1", "n2")
    path = tmp_path / "site.yaml"
    path.write_text(MANIFEST)
    await evac.ok("apply", "-f", str(path))

    deleting = asyncio.create_task(evac.ok("delete", "-f", str(path)))
    await until_pending(cluster, 2)
    await cluster.settle()
    ran = await deleting

    assert "instance.delete web-1: succeeded: deleted" in ran.out
    assert "pool shared: deleted" in ran.out


async def test_a_verb_waits_and_tells_how_it_ended(evac: Shell, cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", NodeState.UP)

    fencing = asyncio.create_task(evac("node", "fence", "n1", "--reason", "smoke"))
    (operation,) = await until_pending(cluster)
    await cluster.answered(operation["id"], result="succeeded", reason="Off read twice")
    await cluster.settle()
    ran = await fencing

    assert (ran.code, ran.out) == (0, "node.fence n1: succeeded: Off read twice\n")
    assert "node.fence n1: accepted" in ran.err


async def test_a_failed_operation_is_exit_code_1(evac: Shell, cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", NodeState.SUSPECT)
    command = ["node", "confirm-down", "n1", "--reason", "it is dark", "--confirm", "n1", "--json"]

    confirming = asyncio.create_task(evac(*command))
    (operation,) = await until_pending(cluster)
    await cluster.answered(operation["id"], result="failed", reason="heartbeats arrive")
    await cluster.settle()
    ran = await confirming

    assert ran.code == 1
    assert ran.json["state"] == "failed"
    assert "heartbeats arrive" in ran.err


async def test_what_is_still_pending_is_exit_code_5(evac: Shell) -> None:
    ran = await evac("cluster", "arm", "--timeout", "0.1s")
    at_once = await evac("cluster", "disarm", "--for", "2h", "--reason", "storage", "--no-wait")

    assert ran.code == 5
    assert "evac operation show" in ran.err
    assert at_once.code == 0


async def test_a_refusal_names_what_would_do(evac: Shell, cluster: Cluster) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", NodeState.UP)

    ran = await evac("node", "evacuate", "n1", "--reason", "testing")

    assert ran.code == 1
    assert ran.err == (
        "evac: cannot evacuate n1: it is up; drain is not in this version:"
        " shut its machine down in good order, and its instances start elsewhere\n"
    )


async def test_confirm_down_without_a_terminal_wants_the_name_repeated(
    evac: Shell, cluster: Cluster
) -> None:
    await cluster.enrol("n1")
    await cluster.is_in_state("n1", NodeState.BLOCKED)
    before = await cluster.counts()

    missing = await evac("node", "confirm-down", "n1", "--reason", "off", "--confirm", "n2")

    assert missing.code == 2
    assert "nothing was done" in missing.err
    assert await cluster.counts() == before


async def test_tables_show_what_people_look_for(evac: Shell, cluster: Cluster) -> None:
    await cluster.enrol("n1", labels={"zone": "a"})
    await cluster.is_in_state("n1", NodeState.SUSPECT, reason="silent for 9 s")
    await cluster.ok("POST", "/v1/instances", json={"name": "web-1", **instance()})
    await cluster.owns("n1", "web-1")
    await cluster.seen("web-1", Phase.RUNNING, "n1", ago_s=41)

    nodes = await evac.ok("node", "list")
    instances = await evac.ok("instance", "list", "--node", "n1")
    shown = await evac.ok("instance", "show", "web-1")
    status = await evac.ok("cluster", "status")

    assert " ".join(nodes.out.splitlines()[0].split()) == (
        "NAME STATE HEARD INSTANCES VCPUS MEMORY POWER WHY"
    )
    assert "silent for 9 s" in nodes.out
    for page in (instances.out, shown.out):
        assert re.search(r"unknown \(last seen running on n1 \d+ s ago\)", page)
    assert "suspect=1" in status.out


async def test_every_list_and_show_gives_the_apis_json(evac: Shell, cluster: Cluster) -> None:
    await cluster.enrol("n1")
    body = {"name": "p", "kind": "dir", "source": "/vm", "nodes": ["n1"]}
    await cluster.ok("POST", "/v1/pools", json=body)
    await evac.ok(
        "instance", "create", "web-1", "--vcpus", "1", "--memory", "1GiB", "--disk", "p/a"
    )
    await evac.ok("cluster", "arm", "--no-wait")
    operation = (await evac.ok("operation", "list", "--json")).json[0]

    for command in (
        ["node", "list"],
        ["node", "show", "n1"],
        ["pool", "list"],
        ["pool", "show", "p"],
        ["instance", "list"],
        ["instance", "show", "web-1"],
        ["instance", "explain", "web-1"],
        ["event", "list"],
        ["event", "list", "node.*"],
        ["operation", "show", operation["id"]],
        ["cluster", "status"],
        ["cluster", "storm", "show"],
    ):
        assert (await evac.ok(*command, "--json")).json, command
        assert (await evac.ok(*command)).out, command


async def test_deleting_and_forgetting(evac: Shell, cluster: Cluster) -> None:
    await cluster.enrol("n1")
    body = {"name": "p", "kind": "dir", "source": "/vm", "nodes": ["n1"]}
    await cluster.ok("POST", "/v1/pools", json=body)

    await evac.ok("pool", "delete", "p")
    await evac.ok("node", "forget", "n1")

    assert (await evac("pool", "show", "p")).err == "evac: there is no pool named p\n"
    assert (await evac("node", "show", "n1")).code == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["node", "enrol", "n1", "--vcpus", "1", "--memory", "1GB"], "write 512MiB, 128GiB"),
        (["node", "enrol", "n1", "--vcpus", "0", "--memory", "1GiB"], "--vcpus"),
        (["node", "enrol", "n1", "--vcpus", "1", "--memory", "1GiB", "--label", "a"], "KEY=VALUE"),
        (
            ["node", "enrol", "n1", "--vcpus", "1", "--memory", "1GiB", "--power", "ipmi"],
            "--power-address",
        ),
        (
            ["node", "enrol", "n1", "--vcpus", "1", "--memory", "1GiB", "--power-user", "a"],
            "needs --power",
        ),
        (["node", "fence", "n1"], "--reason"),
        (["cluster", "disarm", "--for", "soon", "--reason", "work"], "write 90s"),
        (
            ["apply", "-f", "/nonexistent/site.yaml"],
            "/nonexistent/site.yaml: cannot be read: No such file or directory\n",
        ),
        (["node", "explode"], "explode"),
        (["--url", "ftp://x", "node", "list"], "must begin with http"),
    ],
)
async def test_a_wrong_command_line_is_exit_code_2(
    evac: Shell, argv: list[str], message: str
) -> None:
    ran = await evac(*argv)

    assert ran.code == 2, ran
    assert message in ran.err
    assert ran.out == ""


async def test_without_a_token_it_says_where_to_put_one(evac: Shell) -> None:
    del evac.environment["EVAC_TOKEN"]

    ran = await evac("node", "list")

    assert ran.code == 4
    assert "EVAC_TOKEN" in ran.err
    assert "/nonexistent/config.toml" in ran.err


async def test_a_token_that_is_not_accepted_is_exit_code_4(evac: Shell) -> None:
    evac.environment["EVAC_TOKEN"] = "nonsense"

    ran = await evac("node", "list")

    assert (ran.code, "did not accept the token" in ran.err) == (4, True)


async def test_an_api_that_is_away_is_exit_code_3() -> None:
    evac = Shell(None, {"EVAC_URL": "http://127.0.0.1:9", "EVAC_TOKEN": "x"})

    ran = await evac("node", "list")

    assert ran.code == 3
    assert ran.err.startswith("evac: the api at http://127.0.0.1:9 cannot be reached")


async def test_the_configuration_file_is_read_and_checked(
    evac: Shell, cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "config.toml"
    evac.environment = {"EVAC_CONFIG": str(path)}

    path.write_text(f'url = "http://evac.example"\ntoken = "{cluster.token}"\n')
    good = await evac("node", "list", "--json")
    path.write_text('colour = "red"\n')
    bad = await evac("node", "list")

    assert (good.code, good.out) == (0, "[]\n")
    assert (bad.code, "unknown key 'colour'" in bad.err) == (2, True)


async def test_explain_prints_the_chain(evac: Shell, cluster: Cluster) -> None:
    await cluster.ok("POST", "/v1/instances", json={"name": "web-1", **instance()})
    candidates = [{"node": "n1", "verdict": "refused", "why": "memory: 1 GiB free"}]
    await cluster.seen("web-1", Phase.PENDING, reason="no node fits", candidates=candidates)

    ran = await evac.ok("instance", "explain", "web-1")

    assert "web-1: pending: no node fits. It waits: no node fits. Refused by n1: memory" in ran.out
    assert "it should run" in ran.out
    assert "n1: refused: memory: 1 GiB free" in ran.out
