"""`evac node ...`"""

from __future__ import annotations

import json as jsonlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from evac_common.cli import follow, units
from evac_common.cli.failures import WrongUse
from evac_common.cli.output import ago, memory
from evac_common.cli.session import Json, Name, NoWait, Reason, Timeout, api, out

app = typer.Typer(no_args_is_help=True, help="Nodes: enrol, look at, fence, evacuate, forget.")

Vcpus = Annotated[int, typer.Option(help="Virtual CPUs offered to instances.", min=1)]
Memory = Annotated[str, typer.Option(help="Memory offered to instances: 128GiB.", metavar="SIZE")]
PowerKind = Annotated[
    str | None, typer.Option(help="How its BMC speaks: ipmi, redfish.", metavar="KIND")
]
PowerPort = Annotated[
    int | None, typer.Option(help="Unset: 623 for ipmi, 443 for redfish.", min=1, max=65535)
]
PowerPasswordFile = Annotated[
    Path | None, typer.Option(help="File with the BMC's password; never an argument.")
]
PowerSystem = Annotated[
    str | None,
    typer.Option(
        help="Redfish: /redfish/v1/Systems/ID, where the BMC has several systems.", metavar="PATH"
    ),
]
PowerFingerprint = Annotated[
    str | None,
    typer.Option(
        help="Redfish: SHA-256 fingerprint of the BMC's certificate. Unset: it must be valid.",
        metavar="HEX",
    ),
]


@app.command("enrol")
async def enrol(  # noqa: PLR0917 - Typer calls it by keyword, from the options
    name: Name,
    vcpus: Vcpus,
    memory: Memory,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE")] = None,
    bridge: Annotated[list[str] | None, typer.Option(help="A bridge that exists there.")] = None,
    dmi_uuid: Annotated[
        str | None, typer.Option(help="DMI product UUID; unset: the first registration sets it.")
    ] = None,
    power: PowerKind = None,
    power_address: Annotated[str | None, typer.Option(metavar="HOST")] = None,
    power_port: PowerPort = None,
    power_user: Annotated[str, typer.Option()] = "",
    power_password_file: PowerPasswordFile = None,
    power_system: PowerSystem = None,
    power_tls_sha256: PowerFingerprint = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write node.toml there, for root only.")
    ] = None,
    json: Json = False,
) -> None:
    """Enrol a node and print its node.toml. The secret in it is shown this once."""
    body: dict[str, Any] = {
        "name": name,
        "vcpus": vcpus,
        "memory_mib": units.mib(memory),
        "labels": units.pairs(label or [], "--label"),
        "bridges": bridge or [],
    }
    if dmi_uuid is not None:
        body["dmi_uuid"] = dmi_uuid
    said = {
        "address": power_address,
        "port": power_port,
        "username": power_user or None,
        "system": power_system,
        "tls_sha256": power_tls_sha256,
    }
    body |= _power(power, said, power_password_file)
    if output is not None and output.exists():
        raise WrongUse(
            f"{output}: exists already; the secret is shown only once, so choose another"
        )
    answer = await api().post("/v1/nodes", body)
    toml = node_toml(answer["credentials"])
    if output is not None:
        _write_private(output, toml)
        out().note(f"node {name} enrolled; {output} belongs on it as /etc/evac/node.toml")
    if json:
        out().json(answer)
    elif output is None:
        out().text(toml.rstrip("\n"))
    if answer["commands"]:
        out().note("run at the broker (the password to type is the secret in node.toml):")
        for command in answer["commands"]:
            out().note(f"  {command}")


def _power(
    kind: str | None, said: dict[str, Any], password_file: Path | None
) -> dict[str, dict[str, Any]]:
    """The section `power` of the node, or nothing. `said`: what the other options gave."""
    power = {field: value for field, value in said.items() if value is not None}
    if kind is None:
        if power or password_file is not None:
            raise WrongUse("--power-... needs --power ipmi or --power redfish")
        return {}
    if "address" not in power:
        raise WrongUse("--power needs --power-address")
    power["kind"] = kind
    if password_file is not None:
        try:
            power["password"] = password_file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise WrongUse(f"{password_file}: cannot be read: {why}") from error
    return {"power": power}


def node_toml(credentials: dict[str, Any]) -> str:
    """The file of a node's daemon: identity, broker address and account."""
    if credentials["secret"] is None:
        raise WrongUse(
            "this node was enrolled before under the same key, and its secret was shown then; "
            "forget the node and enrol it again"
        )
    lines = [
        f"# Identity of node {credentials['name']}: for root only; the secret cannot be had again.",
        *(
            f"{key} = {jsonlib.dumps(credentials[key])}"
            for key in ("node_id", "name", "bus_url", "user", "secret")
        ),
    ]
    return "\n".join(lines) + "\n"


def _write_private(path: Path, text: str) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        # The node is enrolled by now and the secret exists nowhere else: it must not be lost.
        out().text(text.rstrip("\n"))
        raise WrongUse(f"{path}: {error}; node.toml was printed instead") from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


@app.command("list")
async def list_nodes(json: Json = False) -> None:
    """Nodes with their state and what is used of them."""
    nodes = await api().all("/v1/nodes")
    if json:
        out().json(nodes)
        return
    now = out().now
    out().table(
        ["NAME", "STATE", "HEARD", "#INSTANCES", "#VCPUS", "#MEMORY", "POWER", "WHY"],
        [
            (
                node["name"],
                node["state"],
                ago(node["heard_at"], now),
                node["instances"],
                f"{node['vcpus_used']}/{node['vcpus']}",
                f"{memory(node['memory_mib_used'])}/{memory(node['memory_mib'])}",
                node["power"]["kind"] if node["power"] else None,
                node["reason"],
            )
            for node in nodes
        ],
    )


@app.command("show")
async def show(name: Name, json: Json = False) -> None:
    """One node: as enrolled, and as the monitor sees it."""
    node = await api().get(f"/v1/nodes/{name}")
    if json:
        out().json(node)
        return
    power = node["power"]
    now = out().now
    out().fields(
        {
            "name": node["name"],
            "id": node["id"],
            "state": node["state"],
            "why": node["reason"],
            "since": ago(node["since"], now),
            "last heartbeat": ago(node["heard_at"], now),
            "isolated": node["isolated"],
            "incarnation": node["incarnation"],
            "instances": node["instances"],
            "vcpus": f"{node['vcpus_used']} of {node['vcpus']}",
            "memory": f"{memory(node['memory_mib_used'])} of {memory(node['memory_mib'])}",
            "labels": node["labels"],
            "bridges": node["bridges"],
            "power": f"{power['kind']} {power['address']}:{power['port']}" if power else None,
            **{
                f"power {key}": power[key]
                for key in ("system", "tls_sha256")
                if (power or {}).get(key)
            },
            "dmi uuid": node["dmi_uuid"],
            "hypervisor": node["hypervisor"],
            "daemon": node["daemon_version"],
        }
    )
    for trouble in node["troubles"]:
        out().line(escape(f"trouble {trouble['reason']}: {trouble['why'] or '-'}"))
    for gate in node["gates"]:
        out().line(f"gate {gate['gate']}: {'open' if gate['open'] else 'SHUT'}: {gate['why']}")


async def _verb(
    name: str, verb: str, body: dict[str, Any], *, wait: bool, timeout: str, json: bool
) -> None:
    operation = await api().post(f"/v1/nodes/{name}/{verb}", body)
    await follow.follow(operation, wait=wait, timeout=timeout, json=json)


@app.command("fence")
async def fence(
    name: Name,
    reason: Reason,
    json: Json = False,
    no_wait: NoWait = False,
    timeout: Timeout = "10min",
) -> None:
    """Cut a node off now, without waiting for detection. Its instances then run elsewhere."""
    await _verb(name, "fence", {"reason": reason}, wait=not no_wait, timeout=timeout, json=json)


@app.command("evacuate")
async def evacuate(
    name: Name,
    reason: Reason = "evacuate",
    json: Json = False,
    no_wait: NoWait = False,
    timeout: Timeout = "1h",
) -> None:
    """Wait until the instances of a dead node run elsewhere."""
    await _verb(name, "evacuate", {"reason": reason}, wait=not no_wait, timeout=timeout, json=json)


@app.command("confirm-down")
async def confirm_down(
    name: Name,
    reason: Reason,
    confirm: Annotated[
        str | None, typer.Option("--confirm", help="The node's name once more.", metavar="NAME")
    ] = None,
    json: Json = False,
    no_wait: NoWait = False,
    timeout: Timeout = "10min",
) -> None:
    """Vouch that a node is off. If it is not, its instances run twice and their disks are lost."""
    if confirm is None:
        if not sys.stdin.isatty():
            raise WrongUse(f"repeat the node's name: --confirm {name}")
        out().note(f"You vouch that {name} is off and stays off until it boots anew.")
        confirm = str(typer.prompt("Type the node's name", err=True))
    if confirm != name:
        raise WrongUse(f"{confirm!r} is not the name of the node, {name!r}; nothing was done")
    body = {"reason": reason, "name": confirm}
    await _verb(name, "confirm-down", body, wait=not no_wait, timeout=timeout, json=json)


@app.command("forget")
async def forget(name: Name, json: Json = False) -> None:
    """Remove a node that is new or fenced and owns nothing."""
    answer = await api().delete(f"/v1/nodes/{name}")
    if json:
        out().json(answer)
        return
    out().line(f"node {name}: forgotten")
    for command in answer["commands"]:
        out().note(f"run at the broker: {command}")
