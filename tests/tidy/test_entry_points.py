"""What a person is told to run exists: make's targets, scripts, compose.yaml, the Dockerfile."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from evac_lab.scenario.knobs import SETTINGS

ROOT: Final = Path(__file__).parents[2]
CONTROLLERS: Final = ("api", "scheduler", "monitor")
INSTRUCTIONS: Final = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN",
    "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
}  # fmt: skip


def _targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


def _documents() -> list[Path]:
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("common/*.md")]
    return sorted([*found, *ROOT.glob("services/*/*.md"), *ROOT.glob("lab/*.md")])


def test_make_help_lists_what_a_person_needs() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    listed = set(re.findall(r"^  make ([a-z-]+) ", done.stdout, re.MULTILINE))
    assert listed >= {"demo", "test", "check", "lab", "bench", "docs"}
    assert listed <= _targets()


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = _targets()
    unknown = []
    for document in _documents():
        text = document.read_text(encoding="utf-8")
        named = re.findall(r"`make ([a-z][a-z-]*)", text)
        named += re.findall(r"^\s*(?:\$ )?make ([a-z][a-z-]*)\s*(?:#.*)?$", text, re.MULTILINE)
        unknown += [
            f"{document.relative_to(ROOT)}: {name}" for name in named if name not in targets
        ]
    assert not unknown


@pytest.mark.parametrize("script", [".ci/run", ".ci/real"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True, timeout=20)


def _compose() -> dict[str, Any]:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return compose


def test_compose_has_the_reference_site() -> None:
    services = _compose()["services"]
    assert set(services) >= {"rabbitmq", "postgres", "migrate", *CONTROLLERS}
    for name, service in services.items():
        assert ("image" in service) != ("build" in service) or name in {"migrate", *CONTROLLERS}
        assert set(service.get("depends_on", {})) <= set(services), name
        if name != "migrate":
            assert service["healthcheck"]["test"], name
        for volume in service.get("volumes", []):
            source = str(volume).split(":", 1)[0]
            known = source.startswith("./") and (ROOT / source).exists()
            assert known or source in _compose()["volumes"], name


@pytest.mark.parametrize("name", [*CONTROLLERS, "migrate"])
def test_compose_gives_each_program_a_verb_and_settings_that_it_has(name: str) -> None:
    service = _compose()["services"][name]
    program, *verb = service["command"]
    owner = "api" if name == "migrate" else name
    assert (program, verb) == (f"evac-{owner}", ["migrate" if name == "migrate" else "run"])

    unknown = [
        key
        for key in service["environment"]
        if key.removeprefix(f"EVAC_{owner.upper()}_").lower() not in SETTINGS[owner].model_fields
    ]
    assert not unknown


def test_compose_holds_no_secret() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for name, value in re.findall(r"^\s*(\w*PASS\w*): (.+)$", text, re.MULTILINE):
        assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name


def _instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    assert all(len(line) == 2 for line in lines)
    return [(line[0], line[1].strip()) for line in lines]


def test_the_dockerfile_reads_as_one() -> None:
    instructions = _instructions()
    assert {name for name, _ in instructions} <= INSTRUCTIONS
    assert instructions[0][0] == "ARG"
    assert instructions[0][1].startswith("BASE=")
    stages = {
        rest.split(" AS ")[1] for name, rest in instructions if name == "FROM" and " AS " in rest
    }
    for name, rest in instructions:
        if name == "FROM":
            assert rest.split(" AS ")[0] == "${BASE}"
        if name != "COPY":
            continue
        words = shlex.split(rest)
        options = [word for word in words if word.startswith("--")]
        if any(option.startswith("--from=") for option in options):
            assert {option.removeprefix("--from=") for option in options} <= stages
            continue
        sources = [word for word in words if not word.startswith("--")][:-1]
        assert not [source for source in sources if not (ROOT / source).exists()]


def test_the_image_does_not_run_as_root() -> None:
    users = [rest for name, rest in _instructions() if name == "USER"]
    assert users
    assert users[-1] not in {"root", "0"}
