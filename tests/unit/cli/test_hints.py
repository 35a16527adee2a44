"""Whatever evac's own sentences tell a person to type exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from evac_api.core.verbs import REFUSED
from evac_common.cli.main import app

ROOT = Path(__file__).parents[3]
TYPED = re.compile(r"`evac ((?:[a-z][a-z-]* ?)+)")


def _commands(command: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Every command that does something, without the leading `evac`."""
    children = getattr(command, "commands", None)
    if not children:
        return {path}
    return {one for name, child in children.items() for one in _commands(child, (*path, name))}


def _unknown(text: str) -> list[str]:
    known = _commands(get_command(app))
    starts = {path[:length] for path in known for length in range(1, len(path) + 1)}

    def exists(words: tuple[str, ...]) -> bool:
        return words in starts or any(words[: len(path)] == path for path in known)

    return [said for said in TYPED.findall(text) if not exists(tuple(said.split()))]


def test_every_refusal_of_a_verb_names_commands_that_exist() -> None:
    assert _unknown(" ".join(hint for _, hint in REFUSED.values())) == []


@pytest.mark.slow
def test_every_sentence_of_a_service_names_commands_that_exist() -> None:
    sources = [*ROOT.glob("services/*/evac_*/**/*.py"), *ROOT.glob("common/evac_common/**/*.py")]
    assert len(sources) > 100
    wrong = {
        str(path.relative_to(ROOT)): unknown
        for path in sources
        if (unknown := _unknown(path.read_text(encoding="utf-8")))
    }
    assert wrong == {}
