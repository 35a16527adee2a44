"""Golden logs: a scenario's directory holds the log that it must give, line by line.

    NAME/README.md      three sentences: what happens, what must hold, why it is interesting
    NAME/scenario.yaml
    NAME/log.expect     state changes and decisions with their reason

The log is of the file's seed and shows only what evac decided, so a change that decides nothing new
leaves it alone. It is written with `--update`, and read by a person before it is believed.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evac_common.cli.document import DocumentInvalid
from evac_lab.narrate import Line
from evac_lab.runner import Outcome
from evac_lab.scenario.reading import Scenario, read

README: Final = "README.md"
SCENARIO: Final = "scenario.yaml"
LOG: Final = "log.expect"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """A scenario in a directory of its own."""

    directory: Path
    scenario: Scenario

    @property
    def log(self) -> Path:
        return self.directory / LOG

    def difference(self, outcome: Outcome) -> list[str]:
        """Lines of a unified diff from the golden log to this run's; empty when they agree."""
        wanted = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        return list(
            difflib.unified_diff(
                wanted.splitlines(),
                log_of(outcome).splitlines(),
                fromfile=f"{self.directory.name}/{LOG}",
                tofile="this run",
                lineterm="",
            )
        )

    def update(self, outcome: Outcome) -> None:
        self.log.write_text(log_of(outcome), encoding="utf-8")


def golden(directory: Path) -> Golden:
    """The directory's scenario. Raises DocumentInvalid for a file that is missing or wrong."""
    for name in (README, SCENARIO):
        if not (directory / name).is_file():
            raise DocumentInvalid(f"{directory}: {name} is missing")
    scenario = read(directory / SCENARIO)
    if scenario.name != directory.name:
        raise DocumentInvalid(
            f"{directory / SCENARIO}: name: must be the directory's, {directory.name!r} "
            f"(got {scenario.name!r})"
        )
    return Golden(directory=directory, scenario=scenario)


def log_of(outcome: Outcome) -> str:
    """The text of a golden log: what happened, in order, and how it ended."""
    lines = [*in_order(outcome.lines), *_at_rest(outcome), verdict(outcome)]
    return "".join(f"{line}\n" for line in lines)


def in_order(lines: Sequence[Line]) -> list[Line]:
    """By moment; what happened in the same one by cause, then by name, but as the file has it.

    On virtual time a whole evacuation is one moment, and the order of its messages is the seed's.
    """
    return sorted(
        lines, key=lambda line: (round(line.at_s, 3), line.rank, line.what if line.rank else "")
    )


def _at_rest(outcome: Outcome) -> list[Line]:
    """What executes nowhere at the end, and what evac says of it."""
    return [
        Line(
            at_s=outcome.end_s,
            who="judge",
            what=f"instance {name}: does not run",
            why=str(outcome.instances.get(name, {}).get("status", "evac does not know it")),
        )
        for name, history in sorted(outcome.judgement.histories.items())
        if history.node is None
    ]


def verdict(outcome: Outcome) -> Line:
    judged = outcome.judgement
    return Line(
        at_s=outcome.end_s,
        who="judge",
        what=f"{len(outcome.came_back)} came back, {len(judged.ran_twice)} ran twice, "
        f"{len(judged.lost)} lost",
    )
