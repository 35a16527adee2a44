"""`evac`: entry point, error messages, exit codes.

code = await run(["node", "fence", "n1", "--reason", "fire"], session)      # on a running loop
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from evac_common.cli import cluster, declare, events, instances, nodes, operations, pools
from evac_common.cli.failures import (
    DONE,
    EXIT_CODES,
    INTERRUPTED,
    WRONG_USE,
    CliError,
    Refused,
)
from evac_common.cli.output import Output
from evac_common.cli.session import CURRENT, Session

_EPILOG = "Exit codes: " + ", ".join(f"{code} {words}" for code, words in EXIT_CODES.items())

app = typer.Typer(
    name="evac",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=_EPILOG + ".",
    help="High availability for plain KVM hosts: look at the cluster, and tell it what you want.",
)
app.command("apply")(declare.apply)
app.command("delete")(declare.delete)
app.add_typer(nodes.app, name="node")
app.add_typer(pools.app, name="pool")
app.add_typer(instances.app, name="instance")
app.add_typer(events.app, name="event")
app.add_typer(operations.app, name="operation")
app.add_typer(cluster.app, name="cluster")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"evac {metadata.version('evac-common')}")
        raise typer.Exit


@app.callback()
def root(
    url: Annotated[
        str | None,
        typer.Option(help="Address of the api; else EVAC_URL, else the configuration file."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and end.")
    ] = False,
) -> None:
    if url is not None:
        CURRENT.get().url = url


async def run(argv: Sequence[str], session: Session) -> int:
    """Carry out one command line and return its exit code. Prints; raises only what is a bug."""
    token = CURRENT.set(session)
    try:
        return await _run(argv, session)
    finally:
        await session.close()
        CURRENT.reset(token)


async def _run(argv: Sequence[str], session: Session) -> int:
    try:
        result = typer.main.get_command(app)(
            args=list(argv), prog_name="evac", standalone_mode=False
        )
        if inspect.isawaitable(result):
            result = await result
    except typer.TyperException as error:
        message = error.format_message()
        if message:
            session.out.error(message)
        return WRONG_USE
    except typer.Abort:
        return INTERRUPTED
    except Refused as error:
        _refused(session.out, error, told="apply" in argv or "delete" in argv)
        return error.exit_code
    except CliError as error:
        session.out.error(error.message)
        return error.exit_code
    return result if isinstance(result, int) else DONE


def _refused(output: Output, error: Refused, *, told: bool) -> None:
    """`told`: the violations were printed with their lines already."""
    output.error(error.message)
    if not told and len(error.violations) > 1:
        for violation in error.violations:
            output.note(f"  {violation.get('field')}: {violation.get('rule')}")


def main() -> None:
    session = Session(out=Output.standard(), environment=os.environ)
    try:
        code = asyncio.run(run(sys.argv[1:], session))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted; there is nobody left to tell anything.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DONE
    sys.exit(code)


if __name__ == "__main__":
    main()
