"""What a person or a program reads: sober tables, or the api's JSON as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_STYLES = {
    "up": "green",
    "running": "green",
    "succeeded": "green",
    "suspect": "yellow",
    "joining": "yellow",
    "degraded": "yellow",
    "pending": "yellow",
    "unknown": "yellow",
    "fencing": "red",
    "blocked": "bold red",
    "failed": "bold red",
    "fenced": "magenta",
}


class Output:
    """Results go to `out`, progress and errors to `err`, so that results can be piped."""

    def __init__(self, out: Console, err: Console) -> None:
        self._out = out
        self._err = err

    @classmethod
    def standard(cls) -> Output:
        return cls(
            Console(highlight=False, soft_wrap=True),
            Console(stderr=True, highlight=False, soft_wrap=True),
        )

    @property
    def now(self) -> datetime:
        return datetime.now(UTC)

    def json(self, value: Any) -> None:
        self._out.out(json.dumps(value, indent=2, ensure_ascii=False), highlight=False)

    def json_line(self, value: Any) -> None:
        self._out.out(json.dumps(value, ensure_ascii=False), highlight=False)

    def text(self, text: str) -> None:
        """Plain text, exactly."""
        self._out.out(text, highlight=False)

    def line(self, text: str) -> None:
        self._out.print(text, highlight=False)

    def progress(self, text: str) -> None:
        self._err.print(escape(text), style="dim", highlight=False)

    def error(self, text: str) -> None:
        self._err.print(f"[bold red]evac:[/] {escape(text)}", highlight=False)

    def note(self, text: str) -> None:
        self._err.print(escape(text), highlight=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            numeric = column.startswith("#")
            table.add_column(column.lstrip("#"), justify="right" if numeric else "left")
        for row in rows:
            table.add_row(*(cell(value) for value in row))
        self._out.print(table, soft_wrap=False, crop=False, no_wrap=True)

    def fields(self, values: Mapping[str, Any]) -> None:
        width = max(len(key) for key in values)
        for key, value in values.items():
            self._out.print(f"[bold]{key:<{width}}[/]  {cell(value)}", highlight=False)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None or value == "":
        return "[dim]-[/]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return escape(",".join(f"{key}={item}" for key, item in value.items())) or "[dim]-[/]"
    if isinstance(value, list | tuple):
        return escape(",".join(str(item) for item in value)) or "[dim]-[/]"
    text = str(value)
    style = _STYLES.get(text.split(" ", maxsplit=1)[0].rstrip(":"))
    return f"[{style}]{escape(text)}[/]" if style else escape(text)


def ago(moment: str | None, now: datetime) -> str:
    """`41 s ago`; `-` for never."""
    if moment is None:
        return "-"
    seconds = max(0.0, (now - datetime.fromisoformat(moment)).total_seconds())
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min ago"
    return f"{seconds / 3600:.0f} h ago" if seconds < 172800 else f"{seconds / 86400:.0f} d ago"


def clock(moment: str | None) -> str:
    """`2026-11-21 08:34:05` in the reader's own time zone."""
    if moment is None:
        return "-"
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def memory(mib: int) -> str:
    return f"{mib / 1024:g} GiB" if mib % 1024 == 0 else f"{mib} MiB"
