"""What a person sees of a run: a live picture on a terminal, plain lines everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from evac_lab.judge import Judgement
from evac_lab.narrate import Line

_STATE_STYLE = {
    "up": "green",
    "suspect": "yellow",
    "fencing": "bold red",
    "blocked": "bold red",
    "fenced": "red",
    "running": "green",
    "starting": "yellow",
    "down": "red",
    "pending": "yellow",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    name: str
    state: str  # as the monitor sees it
    power: str  # as the hardware is: on, off
    network: str  # ok, cut
    guests: int  # executing on it now, by its own hypervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRow:
    name: str
    node: str  # where it executes, by the hypervisors; "" nowhere
    state: str  # running or down
    downtime_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The cluster at one moment."""

    title: str
    at_s: float
    nodes: Sequence[NodeRow]
    instances: Sequence[InstanceRow]


@dataclass(slots=True)
class View:
    """Shows a run: `line` for what happened, `picture` for how it stands."""

    console: Console
    lines_shown: int = 14
    _lines: list[Line] = field(default_factory=list)
    _live: Live | None = None
    _picture: Picture | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=12, transient=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def line(self, line: Line) -> None:
        self._lines.append(line)
        if self._live is None:
            self.console.print(str(line), highlight=False, markup=False, soft_wrap=True)
        else:
            self._redraw()

    @property
    def pictures(self) -> Callable[[Picture], None] | None:
        """Where pictures go; None where nobody could see them."""
        return None if self._live is None else self.picture

    def picture(self, picture: Picture) -> None:
        self._picture = picture
        self._redraw()

    def _redraw(self) -> None:
        if self._live is None or self._picture is None:
            return
        taken = 9 + max(len(self._picture.nodes), len(self._picture.instances))
        shown = min(self.lines_shown, max(3, self.console.height - taken))
        tail = self._lines[-shown:]
        log = Text("\n".join(str(line) for line in tail), no_wrap=True, overflow="ellipsis")
        tables = Table.grid(expand=True, padding=(0, 1))
        tables.add_row(node_table(self._picture.nodes), instance_table(self._picture.instances))
        self._live.update(
            Group(
                Text(f"{self._picture.title}   t = {self._picture.at_s:6.1f} s", style="bold"),
                tables,
                Panel(log, title="what happened", title_align="left", height=shown + 2),
            )
        )


def node_table(nodes: Sequence[NodeRow]) -> Table:
    table = Table(title="nodes", title_justify="left", expand=True)
    for column in ("node", "state", "power", "network", "guests"):
        table.add_column(column)
    for row in nodes:
        table.add_row(
            row.name,
            Text(row.state, style=_STATE_STYLE.get(row.state, "")),
            Text(row.power, style="" if row.power == "on" else "red"),
            Text(row.network, style="" if row.network == "ok" else "red"),
            str(row.guests),
        )
    return table


def instance_table(instances: Sequence[InstanceRow]) -> Table:
    table = Table(title="instances", title_justify="left", expand=True)
    for column in ("instance", "runs on", "state", "down for"):
        table.add_column(column)
    for row in instances:
        table.add_row(
            row.name,
            row.node or "-",
            Text(row.state, style=_STATE_STYLE.get(row.state, "")),
            f"{row.downtime_s:.1f} s" if row.downtime_s else "-",
        )
    return table


def result_table(judgement: Judgement, moved: Sequence[str]) -> Table:
    """Per instance that moved: where it was brought to and how long it was down."""
    table = Table(title="brought back", title_justify="left")
    table.add_column("instance")
    table.add_column("runs on")
    table.add_column("starts", justify="right")
    table.add_column("downtime", justify="right")
    for name in moved:
        history = judgement.histories[name]
        table.add_row(
            name, history.node or "nowhere", str(history.starts), f"{history.downtime_s:.1f} s"
        )
    return table
