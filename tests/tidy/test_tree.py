"""The tree keeps itself readable: sizes, leftovers, forbidden words, a tour of each package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.tidy.sources import MEMBERS, ROOT, imports

# Every service has these, and they mean the same everywhere: a tour may pass them by.
SAME_EVERYWHERE: Final = {"__init__.py", "py.typed", "cli.py", "settings.py", "service.py"}
NOT_OURS: Final = {"__pycache__", "node_modules", "build", "dist"}
LINES_PER_MODULE: Final = 500
LINES_PER_FUNCTION: Final = 60

# Written so that this file does not contain what it looks for.
LEFTOVERS: Final = re.compile(r"\b(?:TOD[O]|FIXM[E]|XX[X])\b")
MACHINE: Final = re.compile(r"(?<![\w.$}*])/(?:work|root|home/\w+|tmp/(?:venv|bash_job[s]))/")
REGISTRIES: Final = re.compile(r"pyp[i]\.org|pythonhoste[d]\.org|npmj[s]\.")


def _tree() -> list[Path]:
    """Every text file of ours, committed or about to be: what tools leave behind is left out."""
    found = []
    folders = [ROOT]
    while folders:
        for entry in sorted(folders.pop().iterdir()):
            if entry.is_dir():
                hidden = entry.name.startswith(".") and entry.name != ".ci"
                if not hidden and entry.name not in NOT_OURS and not entry.is_symlink():
                    folders.append(entry)
            elif entry.is_file() and b"\0" not in entry.read_bytes():
                found.append(entry)
    return sorted(found)


TREE: Final = _tree()
MODULES: Final = [file for file in TREE if file.suffix == ".py"]


def _hits(pattern: re.Pattern[str]) -> Iterator[str]:
    for file in TREE:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                yield f"{file.relative_to(ROOT)}:{number}: {line.strip()}"


def test_every_module_fits_in_one_reading() -> None:
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in MODULES}
    long = [f"{file.relative_to(ROOT)}: {n}" for file, n in lengths.items() if n > LINES_PER_MODULE]
    assert not long


def test_every_function_fits_on_one_screen() -> None:
    long = []
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LINES_PER_FUNCTION:
                    long.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}: {lines}")
    assert not long


@pytest.mark.parametrize("pattern", [LEFTOVERS, MACHINE, REGISTRIES])
def test_nothing_names_unfinished_work_a_machine_or_a_registry(pattern: re.Pattern[str]) -> None:
    assert not list(_hits(pattern))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (LEFTOVERS, "# TO" + "DO: later"),
        (MACHINE, "see /wo" + "rk/main/lab"),
        (MACHINE, '"/ro' + 'ot/.cache"'),
        (MACHINE, "cp x /home" + "/somebody/x"),
        (REGISTRIES, "https://pypi" + ".org/simple"),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)


def test_no_test_replaces_a_part_with_a_mock() -> None:
    banned = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in MODULES
        for line, name in imports(file)
        if re.match(r"unittest\.mock|mock\.|mock$|pytest_mock", name)
    ]
    assert not banned


@pytest.mark.parametrize(("folder", "package"), MEMBERS.items())
def test_every_member_has_a_tour_of_its_code(folder: str, package: str) -> None:
    readme = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    _, _, tour = readme.partition("## Code tour")
    named = set(re.findall(r"^\| `([^`]+)` \|", tour, re.MULTILINE))
    assert not [path for path in sorted(named) if not (ROOT / folder / path).exists()]
    there = {
        f"{package}/{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in (ROOT / folder / package).iterdir()
        if entry.name not in SAME_EVERYWHERE
        and not entry.name.startswith(".")
        and entry.name not in NOT_OURS
    }
    assert not there - named, "not in the tour"


@pytest.mark.parametrize("package", MEMBERS.values())
def test_every_member_ships_its_types(package: str) -> None:
    folder = next(name for name, value in MEMBERS.items() if value == package)
    assert (ROOT / folder / package / "py.typed").is_file()
