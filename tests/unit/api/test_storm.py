"""What a storm release would do, said before it is done."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from evac_api.core import storm
from evac_api.core.views import SilentNodeView
from evac_common.model.states import NodeState

AT = datetime(2026, 1, 1, tzinfo=UTC)


def silent(
    name: str, state: NodeState = NodeState.SUSPECT, *, instances: int = 2
) -> SilentNodeView:
    return SilentNodeView(
        name=name,
        state=state,
        since=AT,
        heard_at=AT,
        instances=instances,
        reason="silent",
        on_release="",
    )


@pytest.mark.parametrize(
    ("state", "has_power", "isolated", "words"),
    [
        (NodeState.SUSPECT, True, False, "may be cut off by its BMC"),
        (NodeState.SUSPECT, False, False, "becomes blocked"),
        (NodeState.SUSPECT, True, True, "if the monitor is set to fence isolated nodes"),
        (NodeState.DEGRADED, True, True, "stays as it is"),
        (NodeState.FENCING, True, False, "already"),
        (NodeState.BLOCKED, True, False, "confirm-down"),
    ],
)
def test_each_silent_nodes_fate_is_told(
    state: NodeState, has_power: bool, isolated: bool, words: str
) -> None:
    assert words in storm.fate(state, has_power=has_power, isolated=isolated)


def test_a_release_is_told_with_what_it_touches() -> None:
    told = storm.release([silent("a"), silent("b", instances=3)], storm=True)
    assert "2 silent nodes may be cut off" in told
    assert "5 instances started elsewhere" in told

    one = storm.release([silent("a", instances=1), silent("b", NodeState.BLOCKED)], storm=True)
    assert "1 silent node may be cut off" in one
    assert "1 instance started" in one


def test_a_release_that_changes_nothing_says_so() -> None:
    assert "change nothing" in storm.release([silent("a")], storm=False)
    assert "only end the storm" in storm.release([], storm=True)
