"""`evac operation ...`"""

from __future__ import annotations

from typing import Annotated

import typer

from evac_common.cli import follow
from evac_common.cli.output import ago
from evac_common.cli.session import Json, Timeout, api, out

app = typer.Typer(
    no_args_is_help=True, help="Operations: what was asked for, and whether it holds."
)


@app.command("list")
async def list_operations(
    state: Annotated[
        str | None, typer.Option(help="pending, succeeded, failed or cancelled.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """Operations, newest first."""
    page = await api().get("/v1/operations", state=state, limit=limit)
    if json:
        out().json(page["items"])
        return
    now = out().now
    out().table(
        ["ID", "VERB", "TARGET", "STATE", "BY", "BEGAN", "MESSAGE"],
        [
            (
                one["id"],
                one["verb"],
                one["target"],
                one["state"],
                one["actor"],
                ago(one["created_at"], now),
                one["message"],
            )
            for one in page["items"]
        ],
    )


@app.command("show")
async def show(
    operation_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    json: Json = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is settled.")] = False,
    timeout: Timeout = "10min",
) -> None:
    """One operation."""
    one = await api().get(f"/v1/operations/{operation_id}")
    if wait:
        await follow.follow(one, wait=True, timeout=timeout, json=json)
        return
    if json:
        out().json(one)
        return
    now = out().now
    out().fields(
        {
            "id": one["id"],
            "verb": one["verb"],
            "target": one["target"],
            "state": one["state"],
            "message": one["message"],
            "by": one["actor"],
            "reason": one["reason"],
            "began": ago(one["created_at"], now),
            "changed": ago(one["updated_at"], now),
        }
    )
