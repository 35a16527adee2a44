"""The generated pages are what the code says, and links between pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evac_lab import docs

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    if ".venv" not in path.parts
)


@pytest.mark.parametrize("page", sorted(docs.PAGES))
def test_a_generated_page_is_what_the_code_says(page: str) -> None:
    written = (docs.REFERENCE / page).read_text(encoding="utf-8")

    assert written == docs.PAGES[page](), "stale: run `make docs`"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_the_project_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]

    assert [
        target
        for target in targets
        if target and "://" not in target and not ((ROOT / page).parent / target).exists()
    ] == []
