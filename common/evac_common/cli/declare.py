"""`evac apply -f` and `evac delete -f`: many resources from YAML files, one transaction."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from evac_common.cli import document, follow
from evac_common.cli.failures import Refused, WrongUse
from evac_common.cli.session import Json, NoWait, Timeout, api, out

SECTIONS = ("nodes", "pools", "instances")

Files = Annotated[
    list[Path],
    typer.Option("--file", "-f", help="A YAML file, or - for standard input. May be repeated."),
]


class Gathered:
    """Several documents as one, remembering which file and line every part came from."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}
        self._where: dict[str, str] = {}

    def add(self, read: document.Document) -> None:
        """Raises WrongUse for a name that two files declare."""
        if not isinstance(read.value, dict):
            raise WrongUse(f"{read.source}:1: a document is a map with {', '.join(SECTIONS)}")
        for section, entries in read.value.items():
            if not isinstance(entries, dict):
                self.value.setdefault(section, entries)
                continue
            into = self.value.setdefault(section, {})
            for name, entry in entries.items():
                first = self._where.get(f"{section}.{name}")
                if first is not None:
                    raise WrongUse(
                        f"{read.where((section, name))}: is given twice, first at {first}"
                    )
                into[name] = entry
                self._where[f"{section}.{name}"] = f"{read.source}:{read.line((section, name))}"
        for path, line in read.lines.items():
            self._where.setdefault(document.dotted(path), f"{read.source}:{line}")

    def where(self, field: str) -> str:
        """`file.yaml:12: ` of a field, or of the nearest part around it; empty when unknown."""
        while field:
            if field in self._where:
                return f"{self._where[field]}: "
            field = field[: max(field.rfind("."), field.rfind("["), 0)]
        return ""


def gather(files: list[Path]) -> Gathered:
    gathered = Gathered()
    for path in files:
        try:
            text = sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise WrongUse(f"{path}: cannot be read: {why}") from error
        try:
            gathered.add(document.parse(text, str(path)))
        except document.DocumentInvalid as error:
            raise WrongUse(error.message) from error
    return gathered


async def _post(path: str, gathered: Gathered) -> Any:
    try:
        return await api().post(path, gathered.value)
    except Refused as error:
        for violation in error.violations:
            field = str(violation.get("field"))
            violation_at = f"{gathered.where(field)}{field}: {violation.get('rule')}"
            out().note(f"{violation_at}{shown(violation.get('value'))}")
        raise


def shown(value: Any) -> str:
    return "" if value is None or isinstance(value, dict) else f" (got {value!r})"


async def apply(file: Files, json: Json = False) -> None:
    """Create what is new and change what differs; all of it, or nothing."""
    answer = await _post("/v1/apply", gather(file))
    if json:
        out().json(answer)
        return
    for verdict in ("created", "changed"):
        for section in SECTIONS:
            for name in answer[verdict][section]:
                out().line(f"{section.removesuffix('s')} {name}: {verdict}")
    same = sum(len(names) for names in answer["unchanged"].values())
    if same:
        out().line(f"{same} unchanged")


async def delete(
    file: Files, json: Json = False, no_wait: NoWait = False, timeout: Timeout = "10min"
) -> None:
    """Remove the instances and pools that the files name; nodes are kept."""
    gathered = gather(file)
    answer = await _post("/v1/delete", gathered)
    operations = answer["operations"]
    if not no_wait:
        operations = await follow.follow_all(operations, timeout=timeout, quiet=json)
    if json:
        out().json({**answer, "operations": operations})
    else:
        for operation in operations:
            out().line(follow.sentence(operation))
        for name in answer["deleted"]["pools"]:
            out().line(f"pool {name}: deleted")
        for section, names in answer["absent"].items():
            for name in names:
                out().line(f"{section.removesuffix('s')} {name}: not there")
        for kept in answer["kept"].get("nodes", []):
            out().line(f"node {kept['name']}: kept ({kept['why']})")
    follow.check(operations, waited=not no_wait)
