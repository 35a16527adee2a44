"""Which try comes next, and what one try does next."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac_common.model.states import NodeState
from evac_monitor.core import fencing
from evac_monitor.core.fencing import Attempt, AttemptState, Case, PowerState, Progress, Reading

POLICY = fencing.Policy(try_s=10, tries=3, read_gap_s=1, poll_s=1, resume_s=30, retry_blocked_s=60)


def attempt(number: int, state: AttemptState, ago_s: float = 1, *, ours: bool = False) -> Attempt:
    ended = None if state is AttemptState.RUNNING else ago_s
    return Attempt(
        attempt_id=f"{number:032x}",
        number=number,
        state=state,
        began_ago_s=ago_s,
        ended_ago_s=ended,
        detail="it stays on",
        ours=ours,
    )


def step(
    state: NodeState, *attempts: Attempt, no_method: str = "", running_here: bool = False
) -> fencing.Step:
    case = Case(state=state, no_method=no_method, attempts=attempts, running_here=running_here)
    return fencing.next_step(case, POLICY)


FAILED, RUNNING = AttemptState.FAILED, AttemptState.RUNNING


def test_without_a_bmc_a_person_must_decide() -> None:
    assert step(NodeState.FENCING, no_method="no BMC") == fencing.Block(why="no BMC")
    assert step(NodeState.BLOCKED, no_method="no BMC") == fencing.Wait(why="no BMC")


def test_the_first_try_begins_at_once_and_failed_ones_are_followed() -> None:
    assert step(NodeState.FENCING) == fencing.Try(number=1)
    assert step(NodeState.FENCING, attempt(1, FAILED)) == fencing.Try(number=2)


def test_the_last_failed_try_blocks_and_says_what_it_met() -> None:
    tries = [attempt(number, FAILED) for number in (1, 2, 3)]

    assert step(NodeState.FENCING, *tries) == fencing.Block(
        why="3 tries failed; the last: it stays on"
    )


def test_a_try_of_another_monitor_is_waited_for_and_then_resumed() -> None:
    assert isinstance(step(NodeState.FENCING, attempt(1, RUNNING, 29)), fencing.Wait)
    assert step(NodeState.FENCING, attempt(1, RUNNING, 30)) == fencing.Resume(
        attempt_id=f"{1:032x}", number=1
    )


def test_an_own_try_that_was_recorded_and_not_begun_is_begun_at_once() -> None:
    assert isinstance(step(NodeState.FENCING, attempt(1, RUNNING, ours=True)), fencing.Resume)


def test_nothing_begins_while_a_try_runs_here() -> None:
    running = attempt(1, RUNNING, 40, ours=True)

    assert isinstance(step(NodeState.FENCING, running, running_here=True), fencing.Wait)


def test_a_blocked_node_is_tried_again_once_in_a_while() -> None:
    tries = [attempt(number, FAILED) for number in (1, 2)]

    assert isinstance(step(NodeState.BLOCKED, *tries, attempt(3, FAILED, 59)), fencing.Wait)
    assert step(NodeState.BLOCKED, *tries, attempt(3, FAILED, 60)) == fencing.Try(number=4)


def read(at_s: float, state: PowerState = PowerState.UNKNOWN, **fields: object) -> Reading:
    return Reading(asked_s=at_s, answered_s=at_s + 0.1, state=state, **fields)  # type: ignore[arg-type] # a test's own shorthand


ON, OFF = PowerState.ON, PowerState.OFF
FRESH = Progress(began_s=0.0)


def move(now_s: float, *readings: Reading, **fields: object) -> fencing.Move:
    return fencing.next_move(replace(FRESH, readings=readings, **fields), now_s, POLICY)  # type: ignore[arg-type] # a test's own shorthand


def test_the_state_is_read_before_anything_is_ordered() -> None:
    assert move(0) == fencing.Read(after_s=0)


def test_a_node_that_is_off_already_needs_no_order() -> None:
    assert move(0.2, read(0, OFF)) == fencing.Read(after_s=0.1 + POLICY.read_gap_s)
    assert isinstance(move(1.3, read(0, OFF), read(1.1, OFF)), fencing.Proven)


def test_off_read_twice_too_quickly_is_no_proof() -> None:
    assert move(1, read(0, OFF), read(0.9, OFF)) == fencing.Read(
        after_s=0.9 + 0.1 + POLICY.read_gap_s
    )


def test_off_then_on_is_no_proof() -> None:
    assert isinstance(move(3, read(0, OFF), read(2, ON)), fencing.Order)


def test_a_node_that_is_on_is_ordered_off_once_and_read_again() -> None:
    assert isinstance(move(0.2, read(0, ON)), fencing.Order)

    accepted = {"ordered_s": 0.3, "order_accepted": True}
    assert move(0.3, read(0, ON), **accepted) == fencing.Read(after_s=1.3)
    assert isinstance(move(2, read(0, ON), read(1.3, ON), **accepted), fencing.Read)


def test_one_that_only_reads_orders_nothing_and_proves_what_is_off() -> None:
    off = (read(0, OFF), read(1.1, OFF))

    assert move(0.2, read(0, ON), only_read=True) == fencing.Failed(why=fencing.ONLY_READ)
    assert move(0.2, read(0, OFF), only_read=True) == fencing.Read(after_s=0.1 + POLICY.read_gap_s)
    assert isinstance(move(1.3, *off, only_read=True), fencing.Proven)


def test_what_the_end_of_a_try_cut_short_hides_nothing_that_was_said_before() -> None:
    refused = read(0, error="connection refused")
    cut = read(9.9, error="no answer", cut_short=True)

    assert move(10, refused, cut) == fencing.Failed(why="connection refused")
    assert move(10, cut) == fencing.Failed(why="no answer")
    assert "off was read only once" in str(move(10, read(8, OFF), cut))


def test_an_order_that_failed_is_given_again_after_the_next_reading() -> None:
    failed = {"ordered_s": 0.3, "order_error": "no answer"}

    assert isinstance(move(0.4, read(0, ON), **failed), fencing.Read)
    assert isinstance(move(1.5, read(0, ON), read(1.3, ON), **failed), fencing.Order)


def test_an_accepted_order_alone_proves_nothing() -> None:
    result = move(10, read(0, ON), read(9, ON), ordered_s=0.3, order_accepted=True)

    assert result == fencing.Failed(
        why="the BMC read on within 10 s, though the order to power off was accepted"
    )


def test_an_unreachable_bmc_is_asked_until_the_time_is_over() -> None:
    error = read(4, error="no answer")

    assert isinstance(move(5, error), fencing.Read)
    assert move(10, error) == fencing.Failed(why="no answer")


def test_a_wrong_password_is_not_tried_again_within_the_try() -> None:
    assert move(1, read(0, error="wrong password", hopeless=True)) == fencing.Failed(
        why="wrong password"
    )


@given(st.lists(st.tuples(st.sampled_from(list(PowerState)), st.floats(0.1, 4)), max_size=8))
def test_a_proof_is_always_two_successive_offs_with_a_gap(
    heard: list[tuple[PowerState, float]],
) -> None:
    at_s, readings = 0.0, []
    for state, pause_s in heard:
        at_s += pause_s
        readings.append(read(at_s, state))

    result = move(at_s, *readings)

    if isinstance(result, fencing.Proven):
        first, second = result.readings
        assert (first, second) == tuple(readings[-2:])
        assert (first.state, second.state) == (OFF, OFF)
        assert second.asked_s - first.answered_s >= POLICY.read_gap_s


ENROLLED = "00112233-4455-6677-8899-aabbccddeeff"


@pytest.mark.parametrize(
    "told",
    [
        "00112233445566778899aabbccddeeff",
        "33221100554477668899aabbccddeeff",
        "ffeeddccbbaa99887766554433221100",
        "00000000000000000000000000000000",
        "ffffffffffffffffffffffffffffffff",
    ],
)
def test_a_bmc_may_write_the_uuid_in_any_order_of_bytes(told: str) -> None:
    assert fencing.same_system(told, ENROLLED)


def test_the_bmc_of_another_machine_is_known_by_its_uuid() -> None:
    assert not fencing.same_system("10112233445566778899aabbccddeeff", ENROLLED)
