"""`evac cluster ...`"""

from __future__ import annotations

from typing import Annotated

import typer

from evac_common.cli import follow, units
from evac_common.cli.output import ago, clock
from evac_common.cli.session import Json, NoWait, Reason, Timeout, api, out

app = typer.Typer(no_args_is_help=True, help="The whole cluster: its state, and its stop switch.")
storm = typer.Typer(no_args_is_help=True, help="Too many nodes silent at once.")
app.add_typer(storm, name="storm")


@app.command("status")
async def status(json: Json = False) -> None:
    """Armed or not, storm, nodes and instances by state."""
    found = await api().get("/v1/cluster")
    if json:
        out().json(found)
        return
    armed = "armed"
    if not found["armed"]:
        armed = f"disarmed until {clock(found['disarmed_until'])}: {found['disarmed_reason']}"
    out().fields(
        {
            "fencing": armed,
            "storm": f"since {clock(found['storm_since'])}: {found['storm_reason']}"
            if found["storm"]
            else "no",
            "nodes": found["nodes"],
            "instances": found["instances"],
            "evacuations open": found["evacuations_open"],
            "operations pending": found["operations_pending"],
        }
    )


async def _wish(
    path: str, body: dict[str, object], *, wait: bool, timeout: str, json: bool
) -> None:
    operation = await api().post(path, body)
    await follow.follow(operation, wait=wait, timeout=timeout, json=json)


@app.command("disarm")
async def disarm(
    reason: Reason,
    time: Annotated[str, typer.Option("--for", help="For how long: 30min, 2h.", metavar="TIME")],
    json: Json = False,
    no_wait: NoWait = False,
    timeout: Timeout = "1min",
) -> None:
    """No automatic fencing for a while."""
    body: dict[str, object] = {"reason": reason, "for_s": units.seconds(time)}
    await _wish("/v1/cluster/disarm", body, wait=not no_wait, timeout=timeout, json=json)


@app.command("arm")
async def arm(
    reason: Reason = "arm",
    json: Json = False,
    no_wait: NoWait = False,
    timeout: Timeout = "1min",
) -> None:
    """Automatic fencing on again."""
    body: dict[str, object] = {"reason": reason}
    await _wish("/v1/cluster/arm", body, wait=not no_wait, timeout=timeout, json=json)


@storm.command("show")
async def show_storm(json: Json = False) -> None:
    """Is there a storm, and which nodes are silent?"""
    found = await api().get("/v1/cluster/storm")
    if json:
        out().json(found)
        return
    now = out().now
    out().fields(
        {
            "storm": "yes" if found["storm"] else "no",
            "since": ago(found["since"], now),
            "reason": found["reason"],
            "silent nodes": found["silent_nodes"],
            "last released": ago(found["released_at"], now),
        }
    )


@storm.command("release")
async def release_storm(
    reason: Reason, json: Json = False, no_wait: NoWait = False, timeout: Timeout = "1min"
) -> None:
    """You have looked: go on fencing, one node after the other."""
    body: dict[str, object] = {"reason": reason}
    await _wish("/v1/cluster/storm/release", body, wait=not no_wait, timeout=timeout, json=json)
