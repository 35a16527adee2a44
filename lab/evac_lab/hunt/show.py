"""How a hunt is told: a line for each seed, tables at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from evac_lab.hunt.totals import CELLS, COMPONENTS, NOISE, Ran, Targets, Totals, missed

FAILURES_SHOWN: Final = 5  # of one seed


class Show:
    """Progress on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console, seeds: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("hunting"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[so_far]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("hunt", total=seeds, so_far="")
        self._seeds = seeds

    def __enter__(self) -> Show:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def ran(self, ran: Ran, totals: Totals) -> None:
        so_far = (
            f"{totals.cluster_hours:.1f} cluster-hours, {totals.struck} faults, "
            f"{totals.evacuations} evacuations, {len(totals.failing_seeds())} seeds failed"
        )
        self._progress.update(self._task, advance=1, so_far=so_far)
        for failure in ran.lived.failures[:FAILURES_SHOWN]:
            self._print(f"seed {ran.seed}: {failure}", style="bold red")
        if (more := len(ran.lived.failures) - FAILURES_SHOWN) > 0:
            self._print(f"seed {ran.seed}: and {more} more", style="bold red")
        if not self._console.is_terminal and (totals.runs % 10 == 0 or totals.runs == self._seeds):
            self._print(f"{totals.runs} of {self._seeds} seeds: {so_far}")

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def print_totals(
    console: Console, totals: Totals, targets: Targets, *, took_s: float, workers: int
) -> None:
    """Faults by component and kind, then what the hunt amounts to."""
    console.print(_faults(totals, targets))
    recovery = totals.recovery
    speed = totals.lasted_s / took_s if took_s else 0.0
    rows = [
        ("seeds", f"{totals.runs}"),
        (
            "faults",
            f"{totals.struck}, and {totals.noise} messages lost, late, doubled or out of order",
        ),
        ("evacuations completed", f"{totals.evacuations}"),
        ("guests started", f"{totals.starts}"),
        ("cluster-hours", f"{totals.cluster_hours:.1f}"),
        ("took", f"{took_s:.0f} s with {workers} processes"),
        ("speed", f"{speed:.0f} virtual seconds per second, {speed / workers:.0f} each process"),
        (
            "power cut to running again",
            f"median {recovery[0]:.1f} s, p95 {recovery[1]:.1f} s" if recovery else "never",
        ),
        ("violations", _violations(totals)),
    ]
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in rows:
        table.add_row(name, value)
    console.print(table, highlight=False)


def print_verdict(console: Console, totals: Totals, missing: Sequence[str]) -> None:
    """The last lines: what must be looked at, if anything."""
    for sentence in missing:
        console.print(f"target missed: {sentence}", style="bold red", highlight=False)
    seeds = totals.failing_seeds()
    if seeds:
        shown = ", ".join(map(str, seeds[:20])) + (" ..." if len(seeds) > 20 else "")
        console.print(f"failing seeds: {shown}", style="bold red", highlight=False)
    elif not missing:
        console.print("nothing ran twice, nothing was lost", style="bold green")


def _violations(totals: Totals) -> str:
    kinds: dict[str, int] = {}
    for _, failure in totals.failures:
        kinds[failure.kind] = kinds.get(failure.kind, 0) + 1
    return ", ".join(f"{kind}: {count}" for kind, count in sorted(kinds.items())) or "0"


def _faults(totals: Totals, targets: Targets) -> Table:
    table = Table(title="Faults by component and kind", title_justify="left")
    table.add_column("component")
    table.add_column("fault")
    table.add_column("times", justify="right")
    table.add_column("")
    known = {(component, kind) for component, kinds in CELLS.items() for kind in kinds}
    others = sorted(set(totals.faults) - known)
    for cell in (*((c, kind) for c, kinds in CELLS.items() for kind in kinds), *others):
        component, kind = cell
        count = totals.faults[cell]
        few = cell in known and count < targets.cell
        note = f"fewer than {targets.cell}" if few else "messages" if cell in NOISE else ""
        table.add_row(
            f"{component} {COMPONENTS.get(component, '')}",
            kind,
            str(count),
            note,
            style="yellow" if few else None,
        )
    return table


__all__ = ["Show", "missed", "print_totals", "print_verdict"]
