"""The journal's contract, in memory and on disk."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from evac_compute.adapters.file_journal import FileJournal
from evac_compute.adapters.memory_journal import MemoryJournal
from evac_compute.core.record import Change, IncarnationRaised, Released
from evac_compute.ports import Journal, JournalUnavailable
from tests.contract.journal.suite import HISTORIES, JournalContract, Reopen, ident


def _files(path: Path) -> Reopen:
    opened: list[FileJournal] = []

    def reopen() -> Journal:
        for journal in opened:
            journal.close()
        opened[:] = [FileJournal(path)]
        return opened[0]

    return reopen


def _memory() -> Reopen:
    journal = MemoryJournal()
    return lambda: journal


class TestMemoryJournal(JournalContract):
    @pytest.fixture
    def reopen(self) -> Reopen:
        return _memory()

    @HISTORIES
    def test_any_history_is_kept(self, changes: list[Change]) -> None:
        self.check_any_history(_memory, changes)

    def test_a_full_disk_changes_nothing(self) -> None:
        journal = MemoryJournal()
        journal.full = True
        with pytest.raises(JournalUnavailable):
            journal.write([Released(instance_id=ident(1), epoch=1)])
        assert journal.load().tombs == {}


class TestFileJournal(JournalContract):
    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], Journal]:
        return _files(tmp_path / "state" / "journal.sqlite")

    @settings(max_examples=30)
    @HISTORIES
    def test_any_history_is_kept(self, changes: list[Change]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            reopen = _files(Path(folder) / "journal.sqlite")
            self.check_any_history(lambda: reopen, changes)

    def test_a_second_daemon_does_not_get_it(self, tmp_path: Path) -> None:
        first = FileJournal(tmp_path / "journal.sqlite")
        with pytest.raises(JournalUnavailable):
            FileJournal(tmp_path / "journal.sqlite")
        first.close()
        FileJournal(tmp_path / "journal.sqlite").close()

    def test_a_file_that_is_no_journal_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.sqlite"
        path.write_text("something else, and long enough to be read as a header " * 20)
        before = path.read_bytes()
        with pytest.raises(JournalUnavailable):
            FileJournal(path)
        assert path.read_bytes() == before

    def test_the_file_itself_keeps_tombstones_and_incarnation_from_going_back(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "journal.sqlite"
        journal = FileJournal(path)
        journal.write(
            [
                IncarnationRaised(incarnation=2, boot_id="b"),
                Released(instance_id=ident(1), epoch=5),
            ]
        )
        journal.close()
        database = sqlite3.connect(path)
        for statement in (
            "UPDATE tomb SET epoch = 4",
            "DELETE FROM tomb",
            "UPDATE node SET incarnation = 1",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                database.execute(statement)
        database.close()
