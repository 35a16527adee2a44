"""What any journal must do: keep all that was written, never go back, write all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac_common.messages.commands import DiskSpec, InstanceSpec, Session, Start, Stop
from evac_common.messages.reports import Started
from evac_common.model.states import PoolKind
from evac_compute.core.record import (
    Accepted,
    Change,
    IncarnationRaised,
    ProvenDead,
    Ran,
    Recorded,
    Released,
    Reported,
    RunMarked,
    RunState,
    Sent,
    Settled,
    TermApplied,
    TermSeen,
    WentBack,
)
from evac_compute.ports import Journal

NODE = "a" * 32
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
Reopen = Callable[[], Journal]


def ident(number: int) -> str:
    return f"{number:032x}"


def a_start(number: int) -> Start:
    disk = DiskSpec(pool_kind=PoolKind.NFS, source="/srv", volume="a.raw", format="raw")
    return Start(
        node_id=NODE,
        command_id=ident(number),
        term=1,
        incarnation=1,
        instance_id=ident(1),
        epoch=1,
        run=1,
        deadline=AT,
        spec=InstanceSpec(name="web", vcpus=1, memory_mib=64, disks=[disk]),
    )


def a_stop(number: int) -> Stop:
    return Stop(
        node_id=NODE,
        command_id=ident(number),
        term=1,
        incarnation=1,
        instance_id=ident(1),
        epoch=1,
        grace_s=1.5,
    )


def a_session(number: int) -> Session:
    return Session(
        node_id=NODE,
        command_id=ident(number),
        term=1,
        incarnation=1,
        allowed={ident(1): 2},
        superseded={},
    )


def a_report(number: int) -> Reported:
    report = Started(
        node_id=NODE, incarnation=1, term=1, instance_id=ident(1), epoch=1, run=number + 1
    )
    return Reported(message_id=ident(number), at=AT, report=report)


_small = st.integers(min_value=1, max_value=4)
_instance = st.integers(min_value=1, max_value=3).map(ident)
CHANGES = st.one_of(
    st.builds(IncarnationRaised, incarnation=_small, boot_id=st.sampled_from(["a", "b"])),
    st.builds(TermSeen, term=_small),
    st.builds(ProvenDead),
    st.builds(Released, instance_id=_instance, epoch=_small),
    st.builds(
        RunMarked,
        instance_id=_instance,
        epoch=_small,
        run=_small,
        state=st.sampled_from(list(RunState)),
    ),
    st.sampled_from([a_start(1), a_start(2), a_stop(3), a_session(4)]).map(
        lambda command: Accepted(command=command)
    ),
    st.builds(Settled, command_id=_small.map(ident)),
    _small.map(a_report),
    st.builds(Sent, message_id=_small.map(ident)),
)


def carried_out(journal: Journal, changes: list[Change]) -> Recorded:
    """Write each change by itself; what the journal must hold afterwards."""
    expected = Recorded()
    for change in changes:
        if isinstance(change, Reported) and change.message_id in expected.unsent:
            continue  # ids are never used twice
        try:
            expected.apply(change)
        except WentBack:
            with pytest.raises(WentBack):
                journal.write([change])
        else:
            journal.write([change])
    return expected


class JournalContract:
    def test_a_new_journal_says_that_the_node_never_ran(self, reopen: Reopen) -> None:
        assert reopen().load() == Recorded()

    def test_everything_written_is_there_after_a_crash(self, reopen: Reopen) -> None:
        changes: list[Change] = [
            IncarnationRaised(incarnation=1, boot_id="boot"),
            TermSeen(term=7),
            TermApplied(term=6),
            ProvenDead(),
            Released(instance_id=ident(1), epoch=3),
            RunMarked(instance_id=ident(2), epoch=4, run=2, state=RunState.BEGUN),
            Accepted(command=a_stop(9)),
            Accepted(command=a_start(8)),
            Accepted(command=a_session(7)),
            a_report(6),
            a_report(5),
        ]
        reopen().write(changes)

        found = reopen().load()

        assert (found.incarnation, found.boot_id, found.term_seen) == (1, "boot", 7)
        assert found.term_applied == 6
        assert found.proven_dead
        assert found.tombs == {ident(1): 3}
        assert found.runs == {ident(2): Ran(epoch=4, run=2, state=RunState.BEGUN)}
        commands = [pending.command for pending in found.pending.values()]
        assert commands == [a_stop(9), a_start(8), a_session(7)], "in the order of arrival"
        reports = [(unsent.at, unsent.report) for unsent in found.unsent.values()]
        assert reports == [(AT, a_report(6).report), (AT, a_report(5).report)]

    def test_all_changes_of_a_write_or_none(self, reopen: Reopen) -> None:
        journal = reopen()
        journal.write([IncarnationRaised(incarnation=3, boot_id="b"), TermSeen(term=5)])
        before = journal.load()
        for bad in (
            TermSeen(term=4),
            IncarnationRaised(incarnation=3, boot_id="c"),
            RunMarked(instance_id=ident(1), epoch=1, run=1, state=RunState.BEGUN),
        ):
            with pytest.raises(WentBack):
                journal.write([Released(instance_id=ident(1), epoch=1), bad])
            assert journal.load() == before
        assert reopen().load() == before

    def test_a_lower_tombstone_changes_nothing(self, reopen: Reopen) -> None:
        journal = reopen()
        journal.write([Released(instance_id=ident(1), epoch=5)])
        journal.write([Released(instance_id=ident(1), epoch=3)])
        assert reopen().load().tombs == {ident(1): 5}

    def test_a_release_forgets_the_run_and_a_new_incarnation_all_runs_and_commands(
        self, reopen: Reopen
    ) -> None:
        journal = reopen()
        journal.write(
            [
                RunMarked(instance_id=ident(1), epoch=2, run=1, state=RunState.STARTED),
                RunMarked(instance_id=ident(2), epoch=2, run=1, state=RunState.STARTED),
                Accepted(command=a_start(1)),
                Released(instance_id=ident(1), epoch=2),
            ]
        )
        assert set(reopen().load().runs) == {ident(2)}
        journal = reopen()
        journal.write([IncarnationRaised(incarnation=1, boot_id="b")])
        found = reopen().load()
        assert (found.runs, found.pending, found.tombs) == ({}, {}, {ident(1): 2})

    def test_the_same_command_twice_is_one(self, reopen: Reopen) -> None:
        journal = reopen()
        journal.write([Accepted(command=a_start(1)), Accepted(command=a_start(1))])
        assert len(reopen().load().pending) == 1

    def check_any_history(self, fresh: Callable[[], Reopen], changes: list[Change]) -> None:
        reopen = fresh()
        expected = carried_out(reopen(), changes)
        assert reopen().load() == expected


HISTORIES = given(changes=st.lists(CHANGES, max_size=25))
