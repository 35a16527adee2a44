"""Members declare what they import; the hashed requirements hold exactly what members declare."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tidy.sources import MEMBERS, ROOT, imports

SETS: Final = ("runtime", "dev", "lab", "libvirt")
# Which set holds an extra's requirements; every other extra is part of the runtime.
SET_OF_EXTRA: Final = {"libvirt": "libvirt", "real": "lab"}

# What a core may use beside the standard library, of which ruff and import-linter ban a part.
CORE_MAY: Final = re.compile(r"evac_common\.(?:model|messages|errors)\b|pydantic\b")


def _project(folder: str) -> dict[str, Any]:
    text = (ROOT / folder / "pyproject.toml").read_text(encoding="utf-8")
    project: dict[str, Any] = tomllib.loads(text)["project"]
    return project


def _wanted(name: str) -> dict[str, Requirement]:
    """The lines of requirements/NAME.in by name."""
    lines = (ROOT / f"requirements/{name}.in").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def _pinned(name: str) -> dict[str, str]:
    """Version by name in requirements/NAME.txt."""
    text = (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^ ]+)", text, re.MULTILINE)
    return {canonicalize_name(package): version for package, version in pins}


@pytest.mark.parametrize("folder", MEMBERS)
def test_every_member_declares_what_it_imports(folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deptry", ".", "--no-ansi"],
        cwd=ROOT / folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("folder", "package"), MEMBERS.items())
def test_folder_distribution_import_and_command_have_one_name(folder: str, package: str) -> None:
    project = _project(folder)
    assert project["name"] == package.replace("_", "-")
    assert project["requires-python"] == ">=3.11"
    command = "evac" if folder == "common" else project["name"]
    main = "evac_common.cli.main:main" if folder == "common" else f"{package}.cli:main"
    assert project["scripts"][command] == main


@pytest.mark.parametrize("folder", MEMBERS)
def test_what_a_member_declares_is_in_the_requirements(folder: str) -> None:
    project = _project(folder)
    groups = {"": project["dependencies"], **project.get("optional-dependencies", {})}
    for extra, lines in groups.items():
        wanted = _wanted(SET_OF_EXTRA.get(extra, "runtime"))
        for requirement in map(Requirement, lines):
            name = canonicalize_name(requirement.name)
            if name.startswith("evac-"):
                assert str(requirement.specifier) == f"=={_project('common')['version']}"
                continue
            assert name in wanted, f"{name} of {folder} is missing"
            assert wanted[name].specifier == requirement.specifier, name
            assert wanted[name].extras >= requirement.extras, name


def test_the_runtime_holds_nothing_that_no_member_declares() -> None:
    declared = {"uv-build"}
    for folder in MEMBERS:
        project = _project(folder)
        lines = [*project["dependencies"]]
        for extra, more in project.get("optional-dependencies", {}).items():
            lines += [] if extra in SET_OF_EXTRA else more
        declared |= {canonicalize_name(Requirement(line).name) for line in lines}
    assert set(_wanted("runtime")) <= declared


@pytest.mark.parametrize("name", SETS)
def test_requirements_are_pinned_and_hashed_and_name_no_address(name: str) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|^-|^#|--index|--find-links", text, re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text.strip())
    unhashed = [entry for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)]
    assert not unhashed
    pinned = _pinned(name)
    for package, requirement in _wanted(name).items():
        assert pinned[package] in requirement.specifier, package


def test_the_sets_agree_about_versions() -> None:
    runtime = _pinned("runtime")
    for name in SETS:
        differing = {
            package: (version, runtime[package])
            for package, version in _pinned(name).items()
            if runtime.get(package, version) != version
        }
        assert not differing, name


@pytest.mark.parametrize("package", [name for name in MEMBERS.values() if name != "evac_lab"])
def test_a_core_imports_values_only(package: str) -> None:
    folder = next(name for name, value in MEMBERS.items() if value == package)
    stray = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in sorted((ROOT / folder / package / "core").rglob("*.py"))
        for line, name in imports(file)
        if name.split(".")[0] not in sys.stdlib_module_names
        and not name.startswith(f"{package}.core.")
        and not CORE_MAY.match(name)
    ]
    assert not stray
