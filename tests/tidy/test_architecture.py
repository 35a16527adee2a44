"""ARCHITECTURE.md's table of owners, compared with the store modules and the registry."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from evac_common.messages import commands, events, heartbeats, reports, requests
from evac_common.messages.registry import Family, declared
from evac_common.store import intent, nodes, outbox, placement

ROOT = Path(__file__).parents[2]
FAMILIES = (commands, reports, heartbeats, events, requests)
PACKAGES = {
    "api": ROOT / "services/api/evac_api",
    "scheduler": ROOT / "services/scheduler/evac_scheduler",
    "monitor": ROOT / "services/monitor/evac_monitor",
    "compute": ROOT / "services/compute/evac_compute",
}


def _rows() -> dict[str, tuple[set[str], set[str]]]:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.split("<!-- owners:", 1)[1].split("\n## ", 1)[0]
    rows: dict[str, tuple[set[str], set[str]]] = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and cells[0] not in {"writer", "---"}:
            rows[cells[0]] = (
                set(re.findall(r"`([^`]+)`", cells[1])),
                set(re.findall(r"`([^`]+)`", cells[2])),
            )
    return rows


def test_every_table_stands_with_its_one_writer() -> None:
    rows = _rows()
    for module in (intent, placement, nodes):
        assert rows[module.OWNER][0] == {table.name for table in module.TABLES}
    assert rows["each service, its own rows"][0] == {table.name for table in outbox.TABLES}


@pytest.mark.parametrize("writer", ["api", "scheduler", "monitor", "compute", "tools"])
def test_every_message_stands_with_its_one_writer(writer: str) -> None:
    rows = {key.removesuffix(" (outside)"): value for key, value in _rows().items()}

    assert rows[writer][1] == {
        f"{message.family.value} {message.name}"
        for message in declared()
        if message.writer == writer
    }


def test_no_message_is_without_a_writer() -> None:
    assert {message.writer for message in declared()} == {*PACKAGES, "tools"}


def _constructed(package: Path) -> dict[str, set[str]]:
    """Names of message classes that a package constructs (`events.NodeDown(...)`) → where."""
    found: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = (
                    node.func.attr
                    if isinstance(node.func, ast.Attribute)
                    else getattr(node.func, "id", "")
                )
                found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize("service", sorted(PACKAGES))
def test_a_service_builds_no_message_of_another_writer(service: str) -> None:
    foreign = {
        message.__name__: message
        for message in declared()
        if message.writer not in {service, "tools"} and message.family is not Family.REQUEST
    }
    built = _constructed(PACKAGES[service])

    assert {name: built[name] for name in sorted(foreign) if name in built} == {}


def _used(package: Path) -> set[str]:
    """Names that a package's code uses, called or handed on; imports alone do not count."""
    found: set[str] = set()
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Name):
                found.add(node.id)
    return found


def test_every_message_is_used_by_its_writer() -> None:
    built = {service: _used(package) for service, package in PACKAGES.items()}

    missing = [
        message.name
        for message in declared()
        if message.writer in PACKAGES and message.__name__ not in built[message.writer]
    ]
    assert missing == []
