"""`evac-lab`: whole clusters on one machine.

Exit codes: 0 as expected, 1 an expectation or an invariant does not hold, 2 the command or the
file is wrong, 3 this machine cannot run it (root, programs).
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from evac_common.cli.document import DocumentInvalid
from evac_common.errors import EvacError
from evac_lab import demo as demo_module
from evac_lab.report import as_json, print_outcome
from evac_lab.scenario.reading import read
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
    try:
        scenario = read(file)
    except DocumentInvalid as error:
        Console(stderr=True).print(error.message, highlight=False, markup=False)
        raise typer.Exit(2) from error
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


def main() -> None:
    """Entry point of the command."""
    try:
        app()
    except EvacError as error:
        Console(stderr=True).print(f"evac-lab: {error.message}", highlight=False, markup=False)
        raise SystemExit(1) from error
