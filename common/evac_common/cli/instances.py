"""`evac instance ...`"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from evac_common.cli import follow, units
from evac_common.cli.failures import WrongUse
from evac_common.cli.output import ago, clock, memory
from evac_common.cli.session import Json, Name, NoWait, Timeout, api, out

app = typer.Typer(no_args_is_help=True, help="Instances: create, look at, start, stop, explain.")

Why = Annotated[str | None, typer.Option("--reason", "-r", help="Why; recorded with your name.")]


@app.command("create")
async def create(
    name: Name,
    vcpus: Annotated[int, typer.Option(min=1)],
    memory: Annotated[str, typer.Option(help="2GiB, 512MiB.", metavar="SIZE")],
    disk: Annotated[
        list[str] | None, typer.Option(help="A disk in a pool.", metavar="POOL[/VOLUME]")
    ] = None,
    bridge: Annotated[list[str] | None, typer.Option(help="A NIC on this bridge.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE")] = None,
    selector: Annotated[
        list[str] | None, typer.Option(help="A label its node must carry.", metavar="KEY=VALUE")
    ] = None,
    priority: Annotated[int, typer.Option(min=1, max=5, help="1 is recovered first.")] = 3,
    halted: Annotated[bool, typer.Option("--halted", help="Do not start it.")] = False,
    json: Json = False,
) -> None:
    """Create an instance; it is placed and started unless it is halted."""
    body: dict[str, Any] = {
        "name": name,
        "vcpus": vcpus,
        "memory_mib": units.mib(memory),
        "run_strategy": "Halted" if halted else "Always",
        "priority": priority,
        "labels": units.pairs(label or [], "--label"),
        "node_selector": units.pairs(selector or [], "--selector"),
        "disks": [_disk(text) for text in disk or []],
        "nics": [{"bridge": one} for one in bridge or []],
    }
    instance = await api().post("/v1/instances", body)
    if json:
        out().json(instance)
    else:
        out().line(f"instance {name}: created")


def _disk(text: str) -> dict[str, str]:
    pool, _, volume = text.partition("/")
    if not pool:
        raise WrongUse(f"--disk: {text!r} is not POOL or POOL/VOLUME")
    return {"pool": pool, "volume": volume} if volume else {"pool": pool}


@app.command("list")
async def list_instances(
    node: Annotated[str | None, typer.Option(help="Only those of this node.")] = None,
    json: Json = False,
) -> None:
    """Instances with what may truthfully be said of them now."""
    instances = await api().all("/v1/instances", node=node)
    if json:
        out().json(instances)
        return
    now = out().now
    out().table(
        ["NAME", "STATUS", "NODE", "#EPOCH", "#VCPUS", "#MEMORY", "STRATEGY", "SEEN"],
        [
            (
                one["name"],
                one["status"],
                one["node"],
                one["epoch"],
                one["spec"]["vcpus"],
                memory(one["spec"]["memory_mib"]),
                "deleting" if one["deleted_at"] else one["spec"]["run_strategy"],
                ago(one["observed_at"], now),
            )
            for one in instances
        ],
    )


@app.command("show")
async def show(name: Name, json: Json = False) -> None:
    """One instance: intent, placement, and what was last seen."""
    one = await api().get(f"/v1/instances/{name}")
    if json:
        out().json(one)
        return
    spec, now = one["spec"], out().now
    out().fields(
        {
            "name": one["name"],
            "id": one["id"],
            "status": one["status"],
            "strategy": "deleting" if one["deleted_at"] else spec["run_strategy"],
            "node": one["node"],
            "epoch": one["epoch"],
            "run": one["run"],
            "seen": ago(one["observed_at"], now),
            "failed starts": one["attempts"],
            "next start": clock(one["next_at"]) if one["next_at"] else None,
            "vcpus": spec["vcpus"],
            "memory": memory(spec["memory_mib"]),
            "priority": spec["priority"],
            "labels": spec["labels"],
            "node selector": spec["node_selector"],
            "disks": [f"{disk['pool']}/{disk['volume'] or 'auto'}" for disk in spec["disks"]],
            "bridges": [nic["bridge"] for nic in spec["nics"]],
        }
    )


async def _verb(
    name: str, verb: str, reason: str | None, *, wait: bool, timeout: str, json: bool
) -> None:
    body = {"reason": reason} if reason else {}
    operation = await api().post(f"/v1/instances/{name}/{verb}", body)
    await follow.follow(operation, wait=wait, timeout=timeout, json=json)


@app.command("start")
async def start(
    name: Name,
    reason: Why = None,
    json: Json = False,
    no_wait: NoWait = False,
    timeout: Timeout = "10min",
) -> None:
    """It should run from now on."""
    await _verb(name, "start", reason, wait=not no_wait, timeout=timeout, json=json)


@app.command("stop")
async def stop(
    name: Name,
    reason: Why = None,
    json: Json = False,
    no_wait: NoWait = False,
    timeout: Timeout = "10min",
) -> None:
    """It should not run from now on."""
    await _verb(name, "stop", reason, wait=not no_wait, timeout=timeout, json=json)


@app.command("delete")
async def delete(
    name: Name, json: Json = False, no_wait: NoWait = False, timeout: Timeout = "10min"
) -> None:
    """Stop it and remove its record. Its disks are not touched."""
    operation = await api().delete(f"/v1/instances/{name}")
    await follow.follow(operation, wait=not no_wait, timeout=timeout, json=json)


@app.command("explain")
async def explain(name: Name, json: Json = False) -> None:
    """Why is it not running, why is it there? The chain of decisions and their reasons."""
    found = await api().get(f"/v1/instances/{name}/explain")
    if json:
        out().json(found)
        return
    out().line(f"[bold]{_plain(found['summary'])}[/]")
    for step in found["steps"]:
        why = f" ({step['why']})" if step["why"] else ""
        out().text(f"  {clock(step['at']):>19}  {step['what']}{why}")
        for candidate in step["detail"].get("candidates", []):
            out().text(
                f"  {'':>19}    {candidate['node']}: {candidate['verdict']}: {candidate['why']}"
            )
        for gate in step["detail"].get("gates", []):
            word = "open" if gate["open"] else "SHUT"
            out().text(f"  {'':>19}    gate {gate['gate']}: {word}: {gate['why']}")


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
