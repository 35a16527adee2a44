"""The operator of a scenario: types `evac` commands while the world goes on.

A command that waits for its outcome does not hold up the time line, as a person at a shell would
not hold up a fire.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console

from evac_common.cli.failures import EXIT_CODES
from evac_common.cli.output import Output
from evac_lab.narrate import Line
from evac_lab.scenario.timeline import Command

WIDTH = 400  # nothing that a command prints is wrapped


class Shell(Protocol):
    """What carries a command out."""

    async def evac(self, argv: tuple[str, ...], output: Output) -> int:
        """Run one command of the operator, as a shell would; its exit code."""


@dataclass(slots=True, kw_only=True)
class Operator:
    """Runs commands side by side, tells how each ended, and remembers which failed."""

    shell: Shell
    at_s: Callable[[], float]
    tell: Callable[[Line], None]
    failed: list[str] = field(default_factory=list)
    _running: dict[asyncio.Task[None], tuple[str, Command]] = field(default_factory=dict)

    def types(self, text: str, command: Command) -> None:
        task = asyncio.create_task(self._run(text, command), name=text)
        self._running[task] = (text, command)

    async def _run(self, text: str, command: Command) -> None:
        results, errors = io.StringIO(), io.StringIO()
        output = Output(_page(results), _page(errors))
        code = await self.shell.evac(command.argv, output)
        ended = EXIT_CODES.get(code, f"exit code {code}")
        said = _complaint(errors.getvalue()) if code else ""
        self.tell(Line(at_s=self.at_s(), who="operator", what=f"{text}: {ended}", why=said))
        if code and not command.may_fail:
            self.failed.append(f"`{text}` ended with {code} ({ended}): {said}")

    async def leave(self) -> None:
        """The end: what still waits is given up. A command's own bug is raised here."""
        for task, (text, command) in self._running.items():
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                self.tell(Line(at_s=self.at_s(), who="operator", what=f"{text}: still waits"))
                if not command.may_fail:
                    self.failed.append(f"`{text}` still waited at the end")
            else:
                task.result()


def _complaint(text: str) -> str:
    """What the command says went wrong, without its notes on progress."""
    said = [line.removeprefix("evac: ") for line in text.splitlines() if line.startswith("evac: ")]
    return " ".join(said)


def _page(text: io.StringIO) -> Console:
    return Console(file=text, width=WIDTH, highlight=False, soft_wrap=True, color_system=None)
