"""Each import rule bites: one forbidden import is added to a copy of the tree, and its rule breaks.

A rule that nothing can break protects nothing, and nobody would notice: a misspelt module, a layer
that was renamed, a pattern that matches no more.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.tidy.sources import MEMBERS, ROOT

# (contract, where the import is written, what it imports)
BREACHES: Final = (
    ("services-apart", "evac_scheduler.adapters.breach", "evac_monitor.core"),
    ("services-apart", "evac_compute.core.breach", "evac_scheduler.core"),
    ("floors", "evac_common.service.breach", "evac_api.core"),
    ("floors", "evac_monitor.adapters.breach", "evac_lab.judge"),
    ("service-layers", "evac_api.core.breach", "evac_api.ports"),
    ("service-layers", "evac_monitor.ports", "evac_monitor.adapters"),
    ("service-layers", "evac_scheduler.adapters.breach", "evac_scheduler.loops"),
    ("service-layers", "evac_scheduler.loops", "evac_scheduler.adapters"),
    ("service-layers", "evac_api.handlers.breach", "evac_api.adapters"),
    ("service-layers", "evac_compute.adapters.breach", "evac_compute.service"),
    ("service-layers", "evac_monitor.service", "evac_monitor.cli"),
    ("service-layers", "evac_compute.settings", "evac_compute.ports"),
    ("service-layers", "evac_scheduler.new_place", "evac_scheduler.core"),
    ("adapters-plain", "evac_compute.adapters.breach", "evac_compute.actions"),
    ("common-layers", "evac_common.model.breach", "evac_common.messages"),
    ("common-layers", "evac_common.errors", "evac_common.model"),
    ("common-layers", "evac_common.bus.breach", "evac_common.store"),
    ("common-layers", "evac_common.store.breach", "evac_common.relay"),
    ("common-layers", "evac_common.relay.breach", "evac_common.testing"),
    ("common-layers", "evac_common.new_place", "evac_common.errors"),
    ("core-pure", "evac_scheduler.core.breach", "evac_common.store"),
    ("core-pure", "evac_monitor.core.breach", "evac_common.service.clock"),
    ("core-no-io", "evac_api.core.breach", "time"),
    ("core-no-io", "evac_compute.core.breach", "asyncio"),
    ("core-no-io", "evac_scheduler.core.breach", "sqlalchemy"),
    ("compute-no-store", "evac_compute.adapters.breach", "evac_common.store"),
    ("compute-no-store", "evac_compute.adapters.breach", "evac_common.relay"),
    ("compute-no-store", "evac_compute.adapters.breach", "sqlalchemy"),
    ("home-aio-pika", "evac_api.adapters.breach", "aio_pika"),
    ("home-database", "evac_common.bus.breach", "sqlalchemy"),
    ("home-libvirt", "evac_compute.core.breach", "libvirt"),
    ("home-lxml", "evac_common.messages.breach", "lxml"),
    ("home-http-server", "evac_scheduler.adapters.breach", "fastapi"),
    ("home-http-client", "evac_monitor.adapters.breach", "httpx2"),
    ("home-terminal", "evac_compute.adapters.breach", "rich"),
    ("home-cryptography", "evac_monitor.adapters.breach", "cryptography"),
    ("home-bmc", "evac_scheduler.adapters.breach", "pyghmi"),
    ("oracle-apart", "evac_lab.oracle.breach", "evac_common.model"),
    ("oracle-apart", "evac_lab.oracle.breach", "evac_monitor.core"),
    ("oracle-apart", "evac_lab.oracle.breach", "evac_lab.simulated"),
    ("oracle-apart", "evac_lab.oracle.breach", "sqlalchemy"),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("tree")
    for folder, name in MEMBERS.items():
        source = ROOT / folder / name
        shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def _file(tree: Path, module: str) -> Path:
    """The module's file; one that is not there yet is made: rules hold for later names too."""
    path = tree.joinpath(*module.split("."))
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.exists():
            return file
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in path.parents:
        if folder == tree:
            break
        (folder / "__init__.py").touch()
    return path.with_suffix(".py")


@contextmanager
def _with_import(tree: Path, importer: str, imported: str) -> Iterator[None]:
    before = {file: file.read_bytes() for file in tree.rglob("*.py")}
    if imported.startswith("evac_"):
        _file(tree, imported).touch()
    file = _file(tree, importer)
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(f"{text}\nimport {imported}\n", encoding="utf-8")
    try:
        yield
    finally:
        for file in tree.rglob("*.py"):
            if file not in before:
                file.unlink()
        for file, content in before.items():
            if file.read_bytes() != content:
                file.write_bytes(content)


def _lint(tree: Path, *contracts: str) -> tuple[int, str]:
    program = (
        "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    arguments = ["--no-cache", "--no-logo", "--config", "pyproject.toml"]
    for contract in contracts:
        arguments += ["--contract", contract]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "400", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    return done.returncode, done.stdout + done.stderr


def _contracts() -> dict[str, str]:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rules = declared["tool"]["importlinter"]["contracts"]
    return {rule["id"]: rule["name"] for rule in rules}


def test_every_contract_has_a_breach() -> None:
    assert set(_contracts()) == {contract for contract, _, _ in BREACHES}


def test_the_tree_itself_keeps_every_contract(tree: Path) -> None:
    status, output = _lint(tree)
    assert status == 0, output
    assert f"{len(_contracts())} kept, 0 broken" in output


@pytest.mark.parametrize(("contract", "importer", "imported"), BREACHES)
def test_a_forbidden_import_breaks_its_contract(
    tree: Path, contract: str, importer: str, imported: str
) -> None:
    with _with_import(tree, importer, imported):
        status, output = _lint(tree, contract)
    assert status == 1, output
    assert f"{_contracts()[contract]} BROKEN" in output
    # broken by this very import, and by nothing that was broken before; a module of a new name is
    # what the exhaustive layers refuse, and they name only the module
    named = (
        importer.rsplit(".", 1)[-1]
        if importer.endswith("new_place")
        else f"{importer} -> {imported}"
    )
    assert re.search(rf"{re.escape(named)}\b", output), output


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "import random",
        "import asyncio",
        "import structlog",
        "import uuid",
        "from uuid import uuid4",
        "from datetime import datetime\nnow = datetime.now",
        "from os import environ",
        "import os\nhome = os.environ",
    ],
)
def test_ruff_bans_clocks_randomness_and_io_in_a_core_and_only_there(line: str) -> None:
    def banned(path: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--no-cache",
             "--output-format", "json", "--stdin-filename", str(ROOT / path), "-"],
            input=line + "\n", cwd=ROOT, capture_output=True, text=True, check=False, timeout=50,
        )  # fmt: skip
        return {problem["code"] for problem in json.loads(done.stdout)}

    assert banned("services/scheduler/evac_scheduler/core/breach.py") == {"TID251"}
    assert banned("services/scheduler/evac_scheduler/adapters/breach.py") == set()
