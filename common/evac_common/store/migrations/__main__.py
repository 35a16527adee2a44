"""Draft the next migration: `python -m evac_common.store.migrations "why the tables change"`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory

from evac_common.store.migrations import config_for, engine_for, migrate


def draft(message: str) -> None:
    """Write versions/NNNN_*.py: what the tables in code have and the migrations do not make."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'draft.db'}"
        migrate(url)
        engine = engine_for(url)
        with engine.connect() as connection:
            config = config_for(connection)
            head = ScriptDirectory.from_config(config).get_current_head()
            command.revision(config, message, True, rev_id=f"{int(head or 0) + 1:04d}")
        engine.dispose()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    draft(sys.argv[1])
