"""`evac-lab hunt`: the options, and what happens with a seed that fails."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from evac_lab.hunt.live import Failure
from evac_lab.hunt.minimise import cut_down, write
from evac_lab.hunt.plan import CALM_S, Mix, Size, plan
from evac_lab.hunt.run import Job, cores, hunt, quiet
from evac_lab.hunt.show import Show, print_totals, print_verdict
from evac_lab.hunt.totals import Targets, Totals, missed
from evac_lab.hunt.written import Plan, as_text

KEPT_MAX: Final = 5  # failing seeds that are minimised


def hunt_command(
    seeds: Annotated[int, typer.Option(help="So many seeds, one run each.", min=1)] = 20,
    hours: Annotated[
        float, typer.Option(help="Length of each run's time line, in virtual hours.", min=0.05)
    ] = 1.0,
    first: Annotated[int, typer.Option(help="The first seed.", min=0)] = 1,
    nodes: Annotated[int, typer.Option(help="Nodes of each cluster.", min=2, max=100)] = 10,
    instances: Annotated[int, typer.Option(help="Instances of each.", min=1, max=1000)] = 50,
    mix: Annotated[
        Mix | None, typer.Option(help="What goes wrong mostly; unset: the seed draws it.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no further seed after so many real minutes.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; unset: one for each core.", min=1, max=256)
    ] = None,
    require: Annotated[
        bool, typer.Option("--require", help="Fail when a target of the counts is missed.")
    ] = False,
    minimise: Annotated[
        float, typer.Option(help="Minutes to cut down each failing seed; 0: not at all.", min=0)
    ] = 5.0,
    keep: Annotated[Path, typer.Option(help="Where a failing seed's scenario is written.")] = Path(
        "hunt-failures"
    ),
    show: Annotated[
        bool, typer.Option("--show", help="Only print the scenario of the first seed.")
    ] = False,
) -> None:
    """Random clusters, loads and faults on virtual time; an oracle looks at every step.

    Prints faults by kind, evacuations, cluster-hours, speed and violations. A failing seed is cut
    down and written as a directory that `evac-lab simulate` replays.
    """
    size = Size(nodes=nodes, instances=instances, hours=hours)
    if show:
        typer.echo(as_text(plan(first, size, mix)), nl=False)
        return
    quiet()
    console = Console()
    if size.end_s - size.calm_from_s < CALM_S:
        console.print("runs this short end before everything must be as wanted: L1 is not judged")
    workers = workers or cores()
    jobs = [Job(seed=seed, size=size, mix=mix) for seed in range(first, first + seeds)]
    began_s = time.monotonic()
    with Show(console, seeds) as progress:
        totals = hunt(
            jobs,
            workers=workers,
            on_ran=progress.ran,
            until_s=None if minutes is None else began_s + 60.0 * minutes,
        )
    targets = Targets()
    print_totals(console, totals, targets, took_s=time.monotonic() - began_s, workers=workers)
    for job, failure in _to_keep(jobs, totals):
        _keep(console, job, failure, keep, limit_s=60.0 * minimise)
    missing = missed(totals, targets) if require else []
    print_verdict(console, totals, missing)
    raise typer.Exit(1 if totals.failures or missing else 0)


def _to_keep(jobs: list[Job], totals: Totals) -> list[tuple[Job, Failure]]:
    """The first failure of some seeds, of as many kinds as there are."""
    by_seed = {job.seed: job for job in jobs}
    chosen: dict[int, Failure] = {}
    for fresh_kinds in (True, False):
        for seed, failure in totals.failures:
            known = failure.kind in {each.kind for each in chosen.values()}
            if seed not in chosen and len(chosen) < KEPT_MAX and known is not fresh_kinds:
                chosen[seed] = failure
    return [(by_seed[seed], failure) for seed, failure in sorted(chosen.items())]


def _keep(console: Console, job: Job, failure: Failure, directory: Path, *, limit_s: float) -> None:
    """Write the scenario of a failing seed, cut down as far as the time allows."""
    whole: Plan = plan(job.seed, job.size, job.mix)
    target = directory / f"hunt-{job.seed}-{failure.kind.lower()}"
    small, lived, tries = whole, None, 0
    if limit_s > 0:
        small, lived, tries = cut_down(
            whole,
            seed=job.seed,
            kind=failure.kind,
            limit_s=limit_s,
            on_cut=lambda text: console.print(f"seed {job.seed}: {text}", style="dim"),
        )
    if lived is not None:
        failure = next(each for each in lived.failures if each.kind == failure.kind)
    write(small, target, seed=job.seed, failure=failure, lived=lived)
    console.print(
        f"seed {job.seed}: {failure.kind} in {len(small['timeline'])} lines "
        f"(of {len(whole['timeline'])}, {tries} runs): {target}",
        highlight=False,
        soft_wrap=True,
    )
