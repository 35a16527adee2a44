"""`evac-lab`: whole clusters on one machine.

Exit codes: 0 as expected, 1 an expectation or an invariant does not hold, 2 the command or the
file is wrong, 3 this machine cannot run it (root, programs).
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from evac_common.cli.document import DocumentInvalid
from evac_common.errors import EvacError
from evac_lab import demo as demo_module
from evac_lab.golden import Golden, golden
from evac_lab.hunt.command import hunt_command
from evac_lab.real.errors import CannotRunHere
from evac_lab.report import Row, as_json, as_object, print_outcome, print_rows, to_json
from evac_lab.restarts import Restart, print_restarts, restarts
from evac_lab.runner import Outcome
from evac_lab.scenario.reading import Scenario, read
from evac_lab.view import View
from evac_lab.watched import simulate_watched

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
    paths: Annotated[
        list[Path],
        typer.Argument(help="Scenario files, or directories with README.md and scenario.yaml."),
    ],
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same run; unset: the file's own.", min=0)
    ] = None,
    json: Json = False,
    update: Annotated[
        bool, typer.Option("--update", help="Write the golden log of each directory anew.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Run scenarios on virtual time: the services' real code, simulated hardware.

    A directory's log is compared with its golden log, and a difference shown.
    """
    _logs(verbose)
    if update and seed is not None:
        raise typer.BadParameter("golden logs are of the file's seed", param_hint="--update")
    console = Console(stderr=json)
    subjects = [_subject(path) for path in paths]
    rows = []
    for scenario, expected in subjects:
        if len(subjects) > 1:
            console.rule(scenario.name)
        started_s = time.monotonic()
        own = scenario.document.seed
        outcome = _simulated(scenario, own if seed is None else seed, console)
        if update and expected is not None:
            expected.update(outcome)
        compared = expected is not None and seed in (None, own)
        difference = expected.difference(outcome) if expected is not None and compared else []
        if not json:
            print_outcome(console, outcome)
        for line in difference:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        took_s = time.monotonic() - started_s
        rows.append(Row(name=scenario.name, outcome=outcome, difference=difference, took_s=took_s))
    if json:
        typer.echo(_rows_as_json(rows))
    elif len(rows) > 1:
        print_rows(console, rows)
    raise typer.Exit(0 if all(row.passed for row in rows) else 1)


def _subject(path: Path) -> tuple[Scenario, Golden | None]:
    """A scenario, with its golden log when it has a directory."""
    try:
        if path.is_dir():
            found = golden(path)
            return found.scenario, found
        return read(path), None
    except DocumentInvalid as error:
        raise _wrong_file(error) from error


def _simulated(scenario: Scenario, seed: int, console: Console) -> Outcome:
    with View(console) as view:
        return simulate_watched(scenario, seed=seed, on_line=view.line, on_picture=view.pictures)


def _rows_as_json(rows: Sequence[Row]) -> str:
    """One scenario's object as it is; of several, one object by name."""
    objects = {
        row.name: as_object(row.outcome) | {"difference": list(row.difference)} for row in rows
    }
    return to_json(objects[rows[0].name] if len(rows) == 1 else objects)


app.command("hunt")(hunt_command)


class Nodes(StrEnum):
    """What the nodes of a real cluster are made of."""

    LIBVIRT = "libvirt"  # hosts in namespaces; needs root
    PROCESSES = "processes"  # process groups with simulated hypervisors; needs no root


@app.command("run")
def run_command(
    file: Annotated[Path, typer.Argument(help="A scenario file.")],
    nodes: Annotated[Nodes, typer.Option(help="What nodes are made of.")] = Nodes.LIBVIRT,
    repeat: Annotated[int, typer.Option(help="So many runs, one after the other.", min=1)] = 1,
    logs: Annotated[
        Path | None, typer.Option(help="Keep every log there (in a folder per run).")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a scenario on real processes: RabbitMQ, PostgreSQL, the services, BMCs; in real time."""
    _logs(verbose)
    console = Console(stderr=json)
    scenario = _read(file)
    found: list[Restart] = []
    passed = True
    for number in range(1, repeat + 1):
        kept = logs if logs is None or repeat == 1 else logs / str(number)
        outcome = _run_once(scenario, nodes, console, kept)
        passed &= outcome.passed
        found += restarts(outcome)
        if json:
            typer.echo(as_json(outcome))
        else:
            print_outcome(console, outcome)
    print_restarts(console, found)
    raise typer.Exit(0 if passed else 1)


def _run_once(scenario: Scenario, nodes: Nodes, console: Console, logs: Path | None) -> Outcome:
    # Imported here, as the other commands need none of it: programs, root, libvirt.
    from evac_lab.real.labs import run_on_libvirt
    from evac_lab.real.run import run_on_processes

    with View(console) as view:
        if nodes is Nodes.PROCESSES:
            return run_on_processes(
                scenario,
                on_line=view.line,
                on_picture=view.pictures,
                progress=_progress,
                directory=logs,
            )
        outcome, proof = run_on_libvirt(
            scenario, on_line=view.line, on_picture=view.pictures, progress=_progress, logs=logs
        )
    console.print(str(proof), highlight=False, soft_wrap=True)
    return outcome


class Profile(StrEnum):
    """How soon the control plane acts."""

    DEFAULT = "default"  # as in production: a dead node is fenced after 20 s
    FAST = "fast"  # after 6 s


@app.command("up")
def up_command(
    hosts: Annotated[int, typer.Option(help="So many libvirt hosts: n1, n2 ...")] = 3,
    profile: Annotated[Profile, typer.Option(help="Timings.")] = Profile.FAST,
) -> None:
    """Bring up a lab of libvirt hosts and leave it running: broker, database, services, BMCs."""
    from evac_lab.real import labs

    labs.up(hosts=hosts, profile=profile.value, progress=_progress)
    typer.echo(_HOW_TO_USE)


@app.command("down")
def down_command() -> None:
    """End the lab of `up`, and whatever a killed `run` left: no process, mount or file remains."""
    from evac_lab.real import labs

    ended = labs.down(progress=_progress)
    typer.echo("nothing of a lab is left" if ended else "there was no lab")


@app.command("exec", context_settings={"ignore_unknown_options": True})
def exec_command(
    command: Annotated[list[str], typer.Argument(help="evac node list, say.")],
) -> None:
    """Run a command beside the lab's api, with EVAC_URL and EVAC_TOKEN set."""
    from evac_lab.real.labs import BASE, Access

    access = Access.read(BASE)
    argv = access.argv(command)
    os.execve(argv[0], argv, access.environment())


@app.command("disk")
def disk_command(
    volumes: Annotated[list[str], typer.Argument(help="Volumes of pool `shared`: web-1-0.raw.")],
) -> None:
    """Make guest disks in the lab's pool `shared`; they boot, and prove whether they ran twice."""
    from evac_lab.real import labs

    for path in labs.make_volumes(volumes):
        typer.echo(path)


class Switch(StrEnum):
    ON = "on"
    OFF = "off"


@app.command("power")
def power_command(host: str, to: Switch) -> None:
    """Cut the power of a host of the lab, or switch it on, as a scenario's time line does."""
    from evac_lab.real import labs

    labs.host(host).boot() if to is Switch.ON else labs.host(host).cut()


@app.command("network")
def network_command(host: str, to: Switch) -> None:
    """Pull a host's network cable, or put it back; its guests run on and its BMC answers."""
    from evac_lab.real import labs

    labs.host(host).plug() if to is Switch.ON else labs.host(host).unplug()


_HOW_TO_USE = """
The lab is up. From another shell, or this one:

    evac-lab exec -- evac node list
    evac-lab disk web-1-0.raw                      # a guest's disk in pool `shared`
    evac-lab exec -- evac instance create web-1 --vcpus 1 --memory 16MiB --disk shared
    evac-lab power n1 off                          # or: network n1 off
    evac-lab exec -- evac instance explain web-1
    evac-lab down                                  # ends and removes everything
"""


def _progress(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, style="dim", soft_wrap=True)


def _read(file: Path) -> Scenario:
    """The scenario; what is wrong with its file ends the command with status 2."""
    try:
        return read(file)
    except DocumentInvalid as error:
        raise _wrong_file(error) from error


def _wrong_file(error: DocumentInvalid) -> typer.Exit:
    Console(stderr=True).print(error.message, highlight=False, markup=False, soft_wrap=True)
    return typer.Exit(2)


def main() -> None:
    """Entry point of the command."""
    try:
        app()
    except CannotRunHere as error:
        Console(stderr=True).print(f"evac-lab: {error.message}", highlight=False, markup=False)
        raise SystemExit(3) from error
    except DocumentInvalid as error:  # a real lab refuses what it cannot do
        raise SystemExit(_wrong_file(error).exit_code) from error
    except EvacError as error:
        Console(stderr=True).print(f"evac-lab: {error.message}", highlight=False, markup=False)
        raise SystemExit(1) from error
