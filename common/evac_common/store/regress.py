"""Has the database gone back in time? Asked by whoever must not act on what it forgot.

Every rule rests on committed rows being there tomorrow. A standby promoted without the last
commits, a backup restored, a SQLite file copied back: each forgets owners and proofs. `signs` is
read in the same transaction as the decision that it stops, so nothing comes between.

What changes with the database, and what does not:

- PostgreSQL, another server or one initialised anew: the system identifier.
- PostgreSQL, a standby promoted, or recovery to a point in time: the timeline.
- PostgreSQL, a dump restored into the same server: the object ids of database and ledger.
- SQLite: a file beside the database, `<database>.identity`, that whoever restores must rewrite.
- A disk snapshot, rolled back under the same server, changes none of them. A monitor that lives
  through it notices that the transaction counter fell; else only the nodes do, by showing an epoch
  or a session that the database does not know, or the operator says so: `evac-api restored`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Select, func, literal_column, null, select, text

from evac_common.store import intent, nodes, placement
from evac_common.store.transaction import Transaction

RESTORED: Final = "restored"  # the wish of `evac-api restored`

_UNREADABLE: Final = "-"  # this role may not read this part: it says nothing
_PARTS: Final = ("server", "timeline", "database", "ledger")

# The newest checkpoint still names the old timeline right after a promotion; the log does not.
_IDENTITY: Final = (
    "CASE WHEN has_function_privilege('pg_control_system()', 'execute')"
    " THEN (SELECT system_identifier::text FROM pg_control_system()) ELSE '-' END"
    " || '/' || CASE WHEN pg_is_in_recovery() THEN '-'"
    " ELSE ltrim(left(pg_walfile_name(pg_current_wal_lsn()), 8), '0') END"
    " || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())"
    " || '/' || 'ownership'::regclass::oid"
)
_POSITION: Final = text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")

_LAST = placement.ownership.alias("last")
_NODE_DEAD = (
    select(nodes.proof_node.c.id)
    .where(
        nodes.proof_node.c.node_id == placement.sighting.c.node_id,
        nodes.proof_node.c.incarnation >= placement.sighting.c.incarnation,
    )
    .exists()
)

#: A sighting says something only while its node's incarnation may live.
LIVING_SIGHTING: Final = ~_NODE_DEAD


def marker(database: Path) -> Path:
    """The file that tells one history of a SQLite database from another."""
    return database.with_name(f"{database.name}.identity")


async def identity(tx: Transaction) -> str | None:
    """What changes when this database may be another one; None: it cannot tell."""
    if tx.database.get_backend_name() == "sqlite":
        return _read(marker(Path(str(tx.database.database))))
    return str(await tx.scalar(select(literal_column(_IDENTITY))))


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip()[:128] or None
    except FileNotFoundError:
        return None


async def position(tx: Transaction) -> int | None:
    """A count that never falls while the server's own disk is not rolled back; None: there is none.

    Comparable only within one identity.
    """
    if tx.database.get_backend_name() == "sqlite":
        return None
    return int(await tx.scalar(_POSITION))


def difference(recorded: str, found: str | None) -> str:
    """In which way the database is another one than recorded; empty: it is not, as far as told."""
    if not recorded or found is None or recorded == found:
        return ""
    before, now = recorded.split("/"), found.split("/")
    if len(now) != len(_PARTS):
        return f"the database is {found}, it was {recorded}"
    parts = zip(_PARTS, before, now, strict=False)  # recorded by an older version: fewer parts
    changed = [part for part, was, is_ in parts if was != is_ and _UNREADABLE not in (was, is_)]
    if not changed:
        return ""
    return f"its {' and '.join(changed)} changed: the database is {found}, it was {recorded}"


def unknown_epochs() -> Select[tuple[str, str, int, int]]:
    """What a node shows above the ledger's end, and no recovery has judged yet."""
    seen = placement.sighting
    ends = (
        select(func.coalesce(func.max(_LAST.c.epoch), 0))
        .where(_LAST.c.instance_id == seen.c.instance_id)
        .scalar_subquery()
    )
    return (
        select(
            func.coalesce(intent.instance_spec.c.name, seen.c.instance_id).label("instance"),
            func.coalesce(intent.node_spec.c.name, seen.c.node_id).label("node"),
            seen.c.epoch,
            ends.label("known"),
        )
        .select_from(
            seen.outerjoin(
                intent.instance_spec, intent.instance_spec.c.id == seen.c.instance_id
            ).outerjoin(intent.node_spec, intent.node_spec.c.id == seen.c.node_id)
        )
        .where(
            seen.c.explained.is_(False),
            seen.c.judged_term == 0,
            seen.c.epoch > ends,
            LIVING_SIGHTING,
        )
        .order_by(seen.c.instance_id, seen.c.node_id)
        .limit(1)
    )


def _wishes() -> Select[Any]:
    wish, outcome = intent.cluster_wish, nodes.monitor_wish_outcome
    return (
        select(wish.c.actor, wish.c.reason)
        .outerjoin(outcome, outcome.c.wish_id == wish.c.id)
        .where(wish.c.verb == RESTORED, outcome.c.wish_id.is_(None))
        .order_by(wish.c.created_at)
        .limit(1)
    )


async def signs(tx: Transaction) -> str:
    """Why it may have gone back in time, while the flag does not say so yet; empty: no sign."""
    flags = nodes.cluster_flags
    recorded = await tx.scalar(select(flags.c.database_identity).where(flags.c.id == 1))
    changed = difference(str(recorded or ""), await identity(tx))
    if changed:
        return changed
    said = await tx.row(_wishes())
    if said is not None:
        return f"{said['actor']} says that a backup was restored: {said['reason']}"
    return await unknown(tx)


async def unknown(tx: Transaction) -> str:
    """What a node shows and this database has never given; empty: nothing."""
    shown = await tx.row(unknown_epochs())
    if shown is None:
        return ""
    return (
        f"{shown['node']} shows epoch {shown['epoch']} of {shown['instance']}, "
        f"the ledger ends at epoch {shown['known']}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """May the database be believed? `why`: why not; empty: it may."""

    term: int
    recovering: bool
    why: str


def _look(identity_: Any) -> Select[Any]:
    flags = nodes.cluster_flags
    return select(
        flags.c.term,
        flags.c.recovering,
        flags.c.recovering_reason,
        flags.c.database_identity,
        identity_.label("identity"),
        (_wishes().exists() | unknown_epochs().exists()).label("sign"),
    ).where(flags.c.id == 1)


_LOOK_POSTGRESQL: Final = _look(literal_column(_IDENTITY))
_LOOK_SQLITE: Final = _look(null())


async def look(tx: Transaction) -> Look:
    """Asked in every transaction that starts or ends something, so it is one statement."""
    sqlite = tx.database.get_backend_name() == "sqlite"
    row = await tx.row(_LOOK_SQLITE if sqlite else _LOOK_POSTGRESQL)
    if row is None:
        return Look(term=0, recovering=False, why="the cluster's flags are missing")
    if row["recovering"]:
        return Look(term=row["term"], recovering=True, why=row["recovering_reason"])
    found = await identity(tx) if sqlite else row["identity"]
    suspicious = row["sign"] or difference(row["database_identity"], found)
    return Look(term=row["term"], recovering=False, why=await signs(tx) if suspicious else "")
