"""What tests ask of an evacuation that is going on."""

from __future__ import annotations

from typing import Final

from tests.acceptance.cluster import SOURCE, Acceptance, until

MIDDLE: Final = 5
EVACUATION_BEGINS_S: Final = 40.0


async def first_moved(acceptance: Acceptance, names: list[str]) -> dict[str, str]:
    """Wait until some execute elsewhere; which, and where."""
    moved: dict[str, str] = {}

    async def too_few() -> list[str]:
        for name, nodes in (await acceptance.running(names)).items():
            moved.update((name, node) for node in nodes if node != SOURCE)
        return [] if len(moved) >= MIDDLE else [f"{len(moved)} of {MIDDLE} run elsewhere"]

    await until("the evacuation begins", too_few, deadline_s=EVACUATION_BEGINS_S)
    return moved


async def not_recovered(acceptance: Acceptance, names: list[str]) -> list[str]:
    """What is missing: an execution by the hypervisors' logs, or evac's knowledge of it."""
    where = await acceptance.running(names)
    known = {
        item["name"]: item["node"]
        for item in await acceptance.list("instances")
        if item["phase"] == "running" and item["certain"]
    }
    return [
        f"{name} executes on {nodes or 'none'}, evac says {known.get(name)}"
        for name, nodes in where.items()
        if len(nodes) != 1 or nodes != [known.get(name)]
    ]
