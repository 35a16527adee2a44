"""From a file to a scenario; every mistake names file, line, field and rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from evac_common.cli.document import Document, DocumentInvalid, parse
from evac_common.model.states import SUPPORTED_STRATEGIES
from evac_lab.scenario.document import ScenarioDocument
from evac_lab.scenario.expect import Expectation, parse_expectation
from evac_lab.scenario.knobs import refused_settings
from evac_lab.scenario.names import unknown_names
from evac_lab.scenario.timeline import Database, DatabaseState, Disk, DiskAct, End, Step
from evac_lab.scenario.verbs import NotUnderstood, parse_step

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A scenario whose every name is declared and whose time line is in order."""

    document: ScenarioDocument
    source: str  # the file's name, for messages
    steps: tuple[Step, ...]  # by time; the last one is `end`
    lines: tuple[int, ...]  # of each step in the file, from 1
    expectations: tuple[Expectation, ...]

    @property
    def name(self) -> str:
        return self.document.name

    @property
    def end_s(self) -> float:
        return self.steps[-1].at_s

    def settings_of(self, service: str) -> dict[str, bool | int | float | str]:
        """The settings that the file gives for one service, by field name."""
        return {
            key.partition(".")[2]: value
            for key, value in self.document.settings.items()
            if key.partition(".")[0] == service
        }


def read(path: Path) -> Scenario:
    """Read a scenario file. Raises DocumentInvalid with every mistake on a line of its own."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise DocumentInvalid(f"{path}: cannot be read: {why}") from error
    return from_text(text, path.name)


def from_text(text: str, source: str) -> Scenario:
    yaml = parse(text, source)
    if not isinstance(yaml.value, dict):
        raise DocumentInvalid(
            f"{source}: a scenario is a map of name, nodes, instances, timeline ..."
        )
    if "policies" in yaml.value:
        raise DocumentInvalid(
            f"{yaml.where(['policies'])}: policies are not supported by this version"
        )
    try:
        document = ScenarioDocument.model_validate(yaml.value)
    except ValidationError as error:
        raise DocumentInvalid(
            "\n".join(_sentence(problem, yaml) for problem in error.errors(include_url=False))
        ) from error
    problems: list[str] = []
    steps = _lines(document.timeline, "timeline", parse_step, yaml, problems)
    expectations = _lines(document.expect, "expect", parse_expectation, yaml, problems)
    if not problems:
        problems = [
            *unknown_names(document, steps, expectations, yaml),
            *_unsupported(document, yaml),
            *refused_settings(document, yaml),
            *_order(steps, yaml),
            *_never_saved(steps, yaml),
        ]
    if problems:
        raise DocumentInvalid("\n".join(problems))
    return Scenario(
        document=document,
        source=source,
        lines=tuple(yaml.line(["timeline", index]) for index in range(len(steps))),
        steps=tuple(steps),
        expectations=tuple(expectations),
    )


def _sentence(problem: ErrorDetails, yaml: Document) -> str:
    where = yaml.where(_plain(problem["loc"]))
    if problem["type"] == "missing":
        return f"{where}: is required"
    if problem["type"] == "string_type" and isinstance(problem["input"], dict):
        # YAML reads an unquoted line with `: ` in it as a key and its value.
        return f"{where}: is one line of text; put it in quotes, it has a colon in it"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r})"


def _plain(location: Sequence[str | int]) -> list[str | int]:
    """Pydantic's location without the markers it adds for keys and unions."""
    return [part for part in location if not (isinstance(part, str) and part in {"[key]", "Power"})]


def _lines(
    texts: Sequence[str],
    section: str,
    reader: Callable[[str], Read],
    yaml: Document,
    problems: list[str],
) -> list[Read]:
    found: list[Read] = []
    for index, text in enumerate(texts):
        try:
            found.append(reader(text))
        except NotUnderstood as error:
            problems.append(f"{yaml.where([section, index])}: {error} (got {text!r})")
    return found


def _unsupported(document: ScenarioDocument, yaml: Document) -> list[str]:
    """Strategies that the format knows and this version does not."""
    known = " and ".join(strategy.value for strategy in SUPPORTED_STRATEGIES)
    return [
        f"{yaml.where(['instances', name, 'run_strategy'])}: only {known} are supported by this"
        f" version (got {instance.run_strategy.value!r})"
        for name, instance in document.instances.items()
        if instance.run_strategy not in SUPPORTED_STRATEGIES
    ]


def _order(steps: Sequence[Step], yaml: Document) -> list[str]:
    problems = [
        f"{yaml.where(['timeline', index])}: comes before the line above it in time"
        for index in range(1, len(steps))
        if steps[index].at_s < steps[index - 1].at_s
    ]
    ends = [index for index, step in enumerate(steps) if isinstance(step.action, End)]
    if ends != [len(steps) - 1]:
        problems.append(
            f"{yaml.where(['timeline'])}: the last line, and no other, is `at SECONDS end`"
        )
    return problems


def _never_saved(steps: Sequence[Step], yaml: Document) -> list[str]:
    """Going back to a state needs one that was remembered before."""
    problems = []
    saved: set[str] = set()
    for index, step in enumerate(steps):
        match step.action:
            case Database(state=DatabaseState.SAVE):
                saved.add("database")
            case Disk(node=node, what=DiskAct.SAVE):
                saved.add(node)
            case Database(state=DatabaseState.RESTORE) if "database" not in saved:
                problems.append((index, "database save"))
            case Disk(node=node, what=DiskAct.RESTORE) if node not in saved:
                problems.append((index, f"disk {node} save"))
            case _:
                pass
    return [
        f"{yaml.where(['timeline', index])}: no `{before}` comes before it"
        for index, before in problems
    ]
