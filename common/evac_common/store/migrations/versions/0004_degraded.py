"""What the monitor knows of a node beside its state, and when it last said that it is disarmed.

Columns with a default of the database's own: a service of the version before may still insert.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from evac_common.store.columns import Json, UtcTime

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # A column may be added to a table with rows only with a default; both databases keep it.
    op.add_column(
        "node_state",
        sa.Column("troubles", Json, nullable=False, server_default=sa.text("'[]'")),
    )
    for name in ("isolated", "found_off"):
        op.add_column(
            "node_state",
            sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false()),
        )
    op.add_column("cluster_flags", sa.Column("disarmed_said_at", UtcTime(), nullable=True))
