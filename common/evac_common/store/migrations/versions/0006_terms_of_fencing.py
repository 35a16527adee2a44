"""In which term a node was doomed, and in which its power was read: no clocks are compared.

Columns with a default of the database's own: a service of the version before may still insert.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    for table, name in (("node_state", "doomed_term"), ("fence_attempt", "term")):
        op.add_column(
            table, sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        )
