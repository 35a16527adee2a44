"""Where the members are, and what a file imports: shared by the tests of the tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
MEMBERS: Final = {
    "common": "evac_common",
    "services/api": "evac_api",
    "services/scheduler": "evac_scheduler",
    "services/compute": "evac_compute",
    "services/monitor": "evac_monitor",
    "lab": "evac_lab",
}


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, wherever it stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
