"""The rules of ownership hold in every interleaving, and without any one of them they do not."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.model.protocol import Model
from tests.model.search import search
from tests.model.state import Budget

LIMIT = 700_000  # states; a model that outgrows it shows nothing, and fails

FENCING = Budget(power=1, suspicions=2)
CRASHING = Budget(power=1, suspicions=1, crashes=1)
MOVING = Budget(power=1, suspicions=1, moves=1)
REGRESS = Budget(power=1, suspicions=1, regress=1)


@dataclass(frozen=True, kw_only=True)
class Variant:
    lacks: tuple[str, ...]
    why: str
    budget: Budget = FENCING
    breaks: str = "S1"


VARIANTS = (
    Variant(lacks=("no-fence",), why="silence is taken for death"),
    Variant(lacks=("ack-unverified",), why="the BMC accepted the order, and nobody looked"),
    Variant(lacks=("autostart",), why="the hypervisor starts guests at boot by itself"),
    Variant(lacks=("no-gen",), why="a command is obeyed in another session than its own"),
    Variant(lacks=("no-cas",), why="the proof is stored without looking at the node again"),
    Variant(lacks=("event-driven",), why="the scheduler acts on an event, not on the rows"),
    Variant(lacks=("publish-first",), why="published, then stored", budget=CRASHING),
    Variant(
        lacks=("no-outbox",), why="stored, then published from memory", budget=CRASHING, breaks="L1"
    ),
    Variant(lacks=("reassign-timeout",), why="a start that takes long goes to another node"),
    Variant(
        lacks=("stale-report",),
        why="a release of an earlier epoch releases the present one",
        budget=Budget(power=1, moves=2),
    ),
    Variant(lacks=("no-tombstone",), why="a node forgets what it released", budget=MOVING),
    Variant(lacks=("no-term", "no-inventory"), why="nobody notices the regress", budget=REGRESS),
    Variant(lacks=("no-term",), why="commands of the lost history are obeyed", budget=REGRESS),
    Variant(lacks=("no-inventory",), why="what the nodes run is not asked for", budget=REGRESS),
    Variant(lacks=("one-is-enough",), why="not every node is waited for", budget=REGRESS),
    Variant(lacks=("doomed-ignored",), why="a doomed node is taken for dead", budget=REGRESS),
    Variant(lacks=("quiet",), why="a start comes to life behind the inventory", budget=REGRESS),
)


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(
            variant,
            id="+".join(variant.lacks),
            marks=[pytest.mark.slow] if variant.budget is REGRESS else [],
        )
        for variant in VARIANTS
    ],
)
def test_each_rule_is_needed(variant: Variant) -> None:
    model = Model(frozenset(variant.lacks), variant.budget)
    found = search(model, limit=LIMIT, liveness=variant.breaks == "L1")

    assert found.broken.startswith(variant.breaks), f"{variant.why}: {found}"
    assert found.trace


@pytest.mark.parametrize(
    "budget",
    [
        FENCING,
        CRASHING,
        MOVING,
        REGRESS,
        pytest.param(Budget(power=2, suspicions=3, crashes=1), marks=[pytest.mark.slow], id="long"),
        pytest.param(
            Budget(power=1, suspicions=1, moves=2, crashes=1), marks=[pytest.mark.slow], id="moves"
        ),
        pytest.param(
            Budget(power=1, suspicions=1, moves=1, regress=1),
            marks=[pytest.mark.slow],
            id="moves and a regress",
        ),
    ],
    ids=str,
)
def test_together_they_suffice(budget: Budget) -> None:
    found = search(Model(frozenset(), budget), limit=LIMIT)

    assert not found.broken, found
    assert found.states > 3000, "the search looked at next to nothing"
