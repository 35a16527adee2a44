"""`evac cluster ...`"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

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
    out().fields(
        {
            "fencing": _fencing(found),
            "nodes": found["nodes"],
            "instances": found["instances"],
            "evacuations open": found["evacuations_open"],
            "operations pending": found["operations_pending"],
        }
    )


def _fencing(found: Mapping[str, Any]) -> str:
    """What becomes of a node that dies now, and what would change that."""
    if found["recovering"]:
        why = found.get("recovering_reason") or "the database may have gone back in time"
        return f"off: recovering, until every node was heard or is proven down: {why}"
    if not found["armed"]:
        until = clock(found["disarmed_until"])
        return (
            f"off: disarmed until {until}: {found['disarmed_reason']}; `evac cluster arm` ends it"
        )
    if found["storm"]:
        since = clock(found["storm_since"])
        return f"off: storm since {since}: {found['storm_reason']}; see `evac cluster storm show`"
    return "on: a node that dies is cut off, and its instances start elsewhere"


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
    """No automatic fencing for a while. It arms itself again; until then it is said again."""
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
    """Is there a storm, which nodes are silent, and what would a release do?"""
    found = await api().get("/v1/cluster/storm")
    if json:
        out().json(found)
        return
    now = out().now
    told = {"storm": "no"}
    if found["storm"]:
        told = {
            "storm": f"yes, since {clock(found['since'])} ({ago(found['since'], now)})",
            "why": found["reason"],
        }
    if found["released_at"]:
        told["last released"] = ago(found["released_at"], now)
    out().fields({**told, "a release": found["release"]})
    if found["nodes"]:
        out().line("")
        out().table(
            ["SILENT NODE", "STATE", "SINCE", "LAST HEARD", "#INSTANCES", "ON RELEASE IT"],
            [
                (
                    node["name"],
                    node["state"],
                    ago(node["since"], now),
                    ago(node["heard_at"], now),
                    node["instances"],
                    node["on_release"],
                )
                for node in found["nodes"]
            ],
        )


@storm.command("release")
async def release_storm(
    reason: Reason, json: Json = False, no_wait: NoWait = False, timeout: Timeout = "1min"
) -> None:
    """You have looked at `storm show`: go on fencing, one node after the other."""
    body: dict[str, object] = {"reason": reason}
    await _wish("/v1/cluster/storm/release", body, wait=not no_wait, timeout=timeout, json=json)
