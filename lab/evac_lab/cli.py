"""`evac-lab`: whole clusters on one machine.

Exit codes: 0 as expected, 1 an expectation or an invariant does not hold, 2 the command or the
file is wrong, 3 this machine cannot run it (root, programs).
"""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from evac_common.cli.document import DocumentInvalid
from evac_common.errors import EvacError
from evac_lab import demo as demo_module
from evac_lab.real.errors import CannotRunHere
from evac_lab.report import as_json, print_outcome
from evac_lab.scenario.reading import Scenario, read
from evac_lab.simulated.run import Doubles, simulate
from evac_lab.view import View

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)

Seed = Annotated[int, typer.Option(help="Same seed, same run.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the services' own logs.")]


def _logs(verbose: bool) -> None:
    """The services' logs go to stderr when asked for; people want to see the lab's log."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if verbose else logging.CRITICAL
        ),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


@app.command()
def demo(
    seed: Seed = 1,
    fast: Annotated[bool, typer.Option("--fast", help="As fast as the machine can.")] = False,
    verbose: Verbose = False,
) -> None:
    """A node is cut off and its instances come back, in one process, in a minute."""
    _logs(verbose)
    raise typer.Exit(demo_module.demo(Console(), seed=seed, paced=not fast))


@app.command("simulate")
def simulate_command(
    file: Annotated[Path, typer.Argument(help="A scenario file.")],
    seed: Seed = 1,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a scenario on virtual time: the services' real code, simulated hardware."""
    _logs(verbose)
    console = Console(stderr=json)
    scenario = _read(file)
    with View(console) as view:
        outcome = simulate(
            scenario,
            seed=seed,
            on_line=view.line,
            on_picture=view.picture,
            progress=lambda _text: None,
            doubles=Doubles(),
        )
    if json:
        typer.echo(as_json(outcome))
    else:
        print_outcome(console, outcome)
    raise typer.Exit(0 if outcome.passed else 1)


class Nodes(StrEnum):
    """What the nodes of a real cluster are made of."""

    LIBVIRT = "libvirt"  # hosts in namespaces; needs root
    PROCESSES = "processes"  # process groups with simulated hypervisors; needs no root


@app.command("run")
def run_command(
    file: Annotated[Path, typer.Argument(help="A scenario file.")],
    nodes: Annotated[Nodes, typer.Option(help="What nodes are made of.")] = Nodes.LIBVIRT,
    logs: Annotated[
        Path | None, typer.Option(help="Keep the cluster's folder, with every log, there.")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a scenario on real processes: RabbitMQ, PostgreSQL, the services, BMCs; in real time."""
    from evac_lab.real.run import run_on_processes  # the other commands need no servers

    _logs(verbose)
    console = Console(stderr=json)
    scenario = _read(file)
    if nodes is Nodes.LIBVIRT:
        raise CannotRunHere("nodes of libvirt are not part of `run` yet: use --nodes processes")
    with View(console) as view:
        outcome = run_on_processes(
            scenario,
            on_line=view.line,
            on_picture=view.picture,
            progress=lambda text: Console(stderr=True).print(text, highlight=False, style="dim"),
            directory=logs,
        )
    if json:
        typer.echo(as_json(outcome))
    else:
        print_outcome(console, outcome)
    raise typer.Exit(0 if outcome.passed else 1)


def _read(file: Path) -> Scenario:
    """The scenario; what is wrong with its file ends the command with status 2."""
    try:
        return read(file)
    except DocumentInvalid as error:
        Console(stderr=True).print(error.message, highlight=False, markup=False)
        raise typer.Exit(2) from error


def main() -> None:
    """Entry point of the command."""
    try:
        app()
    except CannotRunHere as error:
        Console(stderr=True).print(f"evac-lab: {error.message}", highlight=False, markup=False)
        raise SystemExit(3) from error
    except EvacError as error:
        Console(stderr=True).print(f"evac-lab: {error.message}", highlight=False, markup=False)
        raise SystemExit(1) from error
