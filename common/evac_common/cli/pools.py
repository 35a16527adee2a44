"""`evac pool ...`"""

from __future__ import annotations

import typer

from evac_common.cli.session import Json, Name, api, out

app = typer.Typer(no_args_is_help=True, help="Pools: where instances' disks live.")


@app.command("list")
async def list_pools(json: Json = False) -> None:
    """Pools, and which nodes reach them."""
    pools = await api().all("/v1/pools")
    if json:
        out().json(pools)
        return
    out().table(
        ["NAME", "KIND", "SOURCE", "LOCKS", "#INSTANCES", "NODES"],
        [
            (
                pool["name"],
                pool["kind"],
                pool["source"],
                pool["lock_scope"],
                pool["instances"],
                pool["nodes"],
            )
            for pool in pools
        ],
    )


@app.command("show")
async def show(name: Name, json: Json = False) -> None:
    """One pool."""
    pool = await api().get(f"/v1/pools/{name}")
    if json:
        out().json(pool)
        return
    out().fields(
        {
            "name": pool["name"],
            "id": pool["id"],
            "kind": pool["kind"],
            "source": pool["source"],
            "locks": pool["lock_scope"],
            "nodes": pool["nodes"],
            "instances": pool["instances"],
        }
    )


@app.command("delete")
async def delete(name: Name, json: Json = False) -> None:
    """Remove a pool that no instance uses. What it stores is not touched."""
    await api().delete(f"/v1/pools/{name}")
    if json:
        out().json({"deleted": name})
    else:
        out().line(f"pool {name}: deleted")
