"""`evac event ...`"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import typer

from evac_common.cli.failures import ApiAway
from evac_common.cli.output import clock
from evac_common.cli.session import Json, api, out

app = typer.Typer(no_args_is_help=True, help="Events: what happened, and what happens.")

RETRY_MAX_S: Final = 10.0

Names = Annotated[
    list[str] | None,
    typer.Argument(help="Only these: node.down, or a family: 'node.*'.", metavar="[NAME]..."),
]
Node = Annotated[str | None, typer.Option(help="Only about this node.")]
Instance = Annotated[str | None, typer.Option(help="Only about this instance.")]
Alarms = Annotated[bool, typer.Option("--alarms", help="Only what needs a person.")]


@app.command("list")
async def list_events(
    name: Names = None,
    node: Node = None,
    instance: Instance = None,
    alarms: Alarms = False,
    after: Annotated[int | None, typer.Option(help="After this sequence.", min=0)] = None,
    limit: Annotated[int, typer.Option(min=1, max=10000)] = 50,
    json: Json = False,
) -> None:
    """The latest events, oldest first."""
    page = await api().get(
        "/v1/events",
        name=name,
        node=node,
        instance=instance,
        alarms=alarms or None,
        after=after,
        limit=limit,
    )
    if json:
        out().json(page["items"])
        return
    for event in page["items"]:
        out().text(sentence(event))


@app.command("tail")
async def tail(
    name: Names = None,
    node: Node = None,
    instance: Instance = None,
    alarms: Alarms = False,
    after: Annotated[
        int | None, typer.Option(help="Begin after this sequence; unset: now.", min=0)
    ] = None,
    count: Annotated[int | None, typer.Option(help="Stop after so many events.", min=1)] = None,
    json: Json = False,
) -> None:
    """Events as they happen; goes on by itself when the api was away. Ends with Ctrl-C."""
    query = {"name": name, "node": node, "instance": instance, "alarms": "true" if alarms else ""}
    seen, last, pause_s, began = 0, after, 0.5, False
    while True:
        try:
            async for event in api().events(last, query):
                began, pause_s = True, 0.5
                last = max(last or 0, event["sequence"])
                if json:
                    out().json_line(event)
                else:
                    out().text(sentence(event))
                seen += 1
                if count is not None and seen >= count:
                    return
        except ApiAway as error:
            if not began and last is None:
                raise  # it never worked: more likely a wrong address than weather
            out().progress(error.message)
        await asyncio.sleep(pause_s)
        pause_s = min(RETRY_MAX_S, pause_s * 2)


def sentence(event: dict[str, Any]) -> str:
    """One line for people."""
    data = dict(event["data"])
    about = data.pop("node", None) or data.pop("instance", None) or data.pop("target", None) or ""
    hidden = ("node_id", "instance_id", "operation_id", "evacuation_id", "request_id", "alarm")
    facts = " ".join(
        f"{key}={value}"
        for key, value in data.items()
        if key not in hidden and value not in ("", None)
    )
    alarm = "ALARM " if event["alarm"] else ""
    return (
        f"{event['sequence']:>7}  {clock(event['time'])}  {alarm}{event['name']} {about}  {facts}"
    )
