"""Scenario documents as values: to a `Scenario` at once, and to the text of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from evac_lab.scenario.document import ScenarioDocument
from evac_lab.scenario.expect import parse_expectation
from evac_lab.scenario.reading import Scenario
from evac_lab.scenario.verbs import parse_step

Plan = Mapping[str, Any]  # what a scenario file holds


def scenario_of(plan: Plan) -> Scenario:
    """What reading it from a file would give, a hundred times sooner: nothing is looked up."""
    document = ScenarioDocument.model_validate(plan)
    return Scenario(
        document=document,
        source=document.name,
        lines=tuple(range(1, len(document.timeline) + 1)),
        steps=tuple(parse_step(line) for line in document.timeline),
        expectations=tuple(parse_expectation(line) for line in document.expect),
    )


def as_text(plan: Plan) -> str:
    """As a person would write it: a node, an instance or a moment a line."""
    return "\n".join(_lines(plan)) + "\n"


def _lines(plan: Plan) -> Iterator[str]:
    for key, value in plan.items():
        if key in {"nodes", "pools", "instances"}:
            if value:
                yield f"{key}:"
                yield from (f"  {name}: {_flow(item)}" for name, item in value.items())
        elif isinstance(value, list):
            if value:
                yield f"{key}:"
                yield from (f"  - {_scalar(item)}" for item in value)
        elif value or not isinstance(value, Mapping):
            yield f"{key}: {_flow(value)}"


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _scalar(text: str) -> str:
    """Plain, unless YAML would read something else."""
    return text if yaml.safe_load(text) == text else _flow(text)
