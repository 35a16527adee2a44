"""What a time line owes: an end to every fault, and the truth from its operator."""

from __future__ import annotations

import pytest

from evac_lab.hunt.honest import lies, pairs, still_ill, well_since_s
from evac_lab.scenario.timeline import Step
from evac_lab.scenario.verbs import parse_step


def _steps(*actions: str) -> list[Step]:
    lines = [f"at {10 * index} {action}" for index, action in enumerate(actions, 1)]
    return [parse_step(line) for line in [*lines, "at 9000 end"]]


LASTING = [
    ("power n1 off", "power n1 on"),
    ("shutdown n1", "power n1 on"),
    ("network n1 off from broker in", "network n1 on from broker in"),
    ("stop monitor", "start monitor"),
    ("hang compute@n1", "resume compute@n1"),
    ("broker alarm", "broker on"),
    ("database readonly", "database on"),
    ("bus lose 5", "bus lose 0"),
    ("bus lose 5", "bus calm"),
    ("bmc n1 lies", "bmc n1 on"),
    ("storage n1 locked", "storage n1 on"),
    ("libvirt n1 slow", "libvirt n1 resume"),
    ("identity n2 of n1", "identity n2 own"),
    ("clock n1 jump 40", "clock n1 jump -40"),
    ("clock n1 rate 1", "clock n1 rate 0"),
    ("evac cluster disarm --reason x --for 2h", "evac cluster arm --reason x"),
]
MOMENTARY = [
    "kill monitor",
    "libvirt n1 kill",
    "database lose-ack 2",
    "guest web-1 crash",
    "reboot n1",
    "disk n1 save",
]


@pytest.mark.parametrize(("begins", "ends"), LASTING)
def test_what_lasts_is_ill_until_its_end(begins: str, ends: str) -> None:
    assert list(still_ill(_steps(begins)).values()) == [0]
    assert well_since_s(_steps(begins)) is None

    assert not still_ill(_steps(begins, ends))


@pytest.mark.parametrize("action", MOMENTARY)
def test_what_ends_by_itself_owes_nothing(action: str) -> None:
    assert not still_ill(_steps(action))
    assert well_since_s(_steps(action)) == 10


@pytest.mark.parametrize(
    "other", ["power n2 on", "network n1 on", "start monitor-2", "clock n1 jump -39"]
)
def test_the_end_of_something_else_ends_nothing(other: str) -> None:
    begun = ("power n1 off", "network n1 off in", "stop monitor", "clock n1 jump 40")

    assert len(still_ill(_steps(*begun, other))) == len(begun)


CONFIRM = "evac? node confirm-down n1 --confirm n1 --reason looked"


@pytest.mark.parametrize(
    ("before", "truth"),
    [
        (("power n1 off",), True),
        ((), False),
        (("network n1 off",), False),
        (("power n2 off",), False),
        (("power n1 off", "power n1 on"), False),
    ],
)
def test_only_a_node_that_is_off_is_truthfully_confirmed_down(
    before: tuple[str, ...], truth: bool
) -> None:
    assert (list(lies(_steps(*before, CONFIRM))) == []) is truth


def test_a_beginning_goes_with_its_end_and_all_else_alone() -> None:
    steps = _steps("power n1 off", "kill api", "bmc n1 off", "power n1 on", "bmc n1 on", CONFIRM)

    assert pairs(steps) == [(0, 3), (1,), (2, 4), (5,)]
