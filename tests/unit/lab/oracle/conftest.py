from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evac_common.store.migrations import migrate
from tests.unit.lab.oracle.history import History


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("migrated") / "evac.sqlite"
    migrate(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def history(tmp_path: Path, empty_database: bytes) -> Iterator[History]:
    path = tmp_path / "evac.sqlite"
    path.write_bytes(empty_database)
    told = History(path)
    yield told
    told.sql.close()
    told.oracle.close()


@pytest.fixture
def cluster(history: History) -> History:
    """Four nodes up, `a` on n1 and `b` on n2, everything in order."""
    history.cluster()
    return history
