"""The page of the scenario format: its example can be read, its mistakes are mistakes."""

from __future__ import annotations

import re

import pytest

from evac_lab.scenario import expect, forms, page
from evac_lab.scenario.reading import from_text


def test_the_pages_example_is_a_scenario() -> None:
    assert from_text(page.EXAMPLE, "power-cut.yaml").name == "power-cut"


@pytest.mark.parametrize(("old", "new", "remark"), page.MISTAKES)
def test_a_common_mistake_is_one_and_names_its_line(old: str, new: str, remark: str) -> None:
    assert page.EXAMPLE.count(old) == 1, remark

    assert re.match(r"power-cut\.yaml:\d+: [a-z]", page.complaint(old, new))


def test_the_page_explains_every_key_action_and_expectation() -> None:
    text = page.scenario_page()

    for form in (*forms.FORMS, *expect.FORMS):
        assert f"**`{form.form}`**" in text
        assert f"Example: `{form.example}`" in text
    assert not re.findall(r"^\| `[a-z_]+` \|.*\|\s*\|$", text, re.MULTILINE)


def test_a_key_that_nobody_explains_is_found() -> None:
    with pytest.raises(KeyError):
        page.meaning("colour", {"type": "string"})
