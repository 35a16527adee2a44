"""The row of cluster flags: term, storm, disarmed, the moment of the last fencing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import select, update

from evac_common.messages import events
from evac_common.store import nodes
from evac_common.store.transaction import Transaction
from evac_monitor.adapters import rows
from evac_monitor.core import disarm as disarm_rules
from evac_monitor.core.gate import Answer, Gate
from evac_monitor.ports import ClusterWish, Flags

_FLAGS = nodes.cluster_flags
_ROW = _FLAGS.c.id == 1

DISARM_MAX_S = 7 * 24 * 3600
_ARMED: Final[Mapping[str, Any]] = {
    "disarmed_until": None,
    "disarmed_reason": "",
    "disarmed_said_at": None,
}


async def probe(tx: Transaction) -> None:
    await tx.execute(update(_FLAGS).where(_ROW).values(term=_FLAGS.c.term))


async def declare_storm(tx: Transaction, why: str, names: Sequence[str]) -> bool:
    changed = await tx.change(
        update(_FLAGS)
        .where(_ROW, _FLAGS.c.storm.is_(False))
        .values(storm=True, storm_reason=why, storm_since=tx.now)
    )
    if changed != 1:
        return False
    await tx.emit(events.StormDeclared(why=why, silent_nodes=list(names)))
    await tx.audit(
        actor=rows.ACTOR,
        action="cluster.storm",
        subject="cluster",
        reason=why,
        detail={"nodes": list(names)},
    )
    return True


async def count_fencing(tx: Transaction, seen: Flags, *, in_storm: bool) -> bool:
    """Take the right to begin one fencing. False: another began, or the flags changed meanwhile.

    `in_storm`: a storm does not forbid it (the node's power was read Off).
    """
    flags = await tx.row(select(_FLAGS).where(_ROW).with_for_update())
    if flags is None or flags["last_fencing_at"] != seen.last_fencing_at:
        return False
    if flags["storm"] and not in_storm:
        return False
    if flags["recovering"]:
        return False
    if flags["disarmed_until"] is not None and flags["disarmed_until"] > tx.now:
        return False
    await tx.execute(update(_FLAGS).where(_ROW).values(last_fencing_at=tx.now))
    return True


async def note_fencing(tx: Transaction) -> None:
    """An operator's fencing takes no turn, but the automatic ones keep their distance from it."""
    await tx.execute(update(_FLAGS).where(_ROW).values(last_fencing_at=tx.now))


async def disarm(tx: Transaction, wish: ClusterWish) -> tuple[bool, str]:
    """Returns success and the reason."""
    try:
        for_s = float(wish.arguments["for_s"])
    except (KeyError, TypeError, ValueError):
        return False, "disarm needs for_s, a number of seconds"
    if not 0 < for_s <= DISARM_MAX_S:
        return False, f"for_s must be above 0 and at most {DISARM_MAX_S} (got {for_s:g})"
    until: datetime = tx.now + timedelta(seconds=for_s)
    why = f"{wish.reason} ({wish.actor})"
    await tx.execute(
        update(_FLAGS)
        .where(_ROW)
        .values(disarmed_until=until, disarmed_reason=why, disarmed_said_at=tx.now)
    )
    shown = until.astimezone(UTC).isoformat(timespec="seconds")
    await tx.emit(events.Disarmed(why=why, until=shown))
    return True, f"disarmed until {shown}"


async def arm(tx: Transaction, wish: ClusterWish) -> tuple[bool, str]:
    flags = await rows.read_flags(tx)
    if flags is None or flags.disarmed_until is None:
        return True, "it was armed already"
    await tx.execute(update(_FLAGS).where(_ROW).values(**_ARMED))
    await tx.emit(events.Armed(why=f"{wish.reason} ({wish.actor})"))
    return True, "armed"


async def remind_disarmed(tx: Transaction, every_s: float) -> str:
    """Mention a disarm, or end it when its time is over. Returns what was said; empty: nothing."""
    flags = await rows.read_flags(tx)
    if flags is None or flags.disarmed_until is None:
        return ""
    until = flags.disarmed_until
    if not disarm_rules.must_say(until, flags.disarmed_said_at, tx.now, every_s):
        return ""
    shown = until.astimezone(UTC).isoformat(timespec="seconds")
    over = until <= tx.now
    changed = await tx.change(
        update(_FLAGS)
        .where(_ROW, _FLAGS.c.disarmed_until == until)
        .where(_FLAGS.c.disarmed_said_at.is_not_distinct_from(flags.disarmed_said_at))
        .values(**(_ARMED if over else {"disarmed_said_at": tx.now}))
    )
    if changed != 1:
        return ""
    if not over:
        left_s = (until - tx.now).total_seconds()
        await tx.emit(events.StillDisarmed(why=flags.disarmed_reason, until=shown, left_s=left_s))
        return f"fencing is still disarmed, until {shown}: {flags.disarmed_reason}"
    why = f"the time limit ended at {shown}; it was disarmed: {flags.disarmed_reason}"
    await tx.emit(events.Armed(why=why))
    await tx.audit(actor=rows.ACTOR, action="cluster.arm", subject="cluster", reason=why)
    return f"fencing is armed again: {why}"


async def release_storm(tx: Transaction, wish: ClusterWish) -> tuple[bool, str]:
    """What died before the release does not count towards the blast radius any more."""
    flags = await rows.read_flags(tx)
    if flags is None or not flags.storm:
        return True, "there was no storm"
    await tx.execute(
        update(_FLAGS)
        .where(_ROW)
        .values(storm=False, storm_reason="", storm_since=None, storm_released_at=tx.now)
    )
    await tx.emit(events.StormReleased(why=f"{wish.reason} ({wish.actor})"))
    return True, "released: what was silent before may be fenced now, one at a time"


def operator_answer(wish_actor: str, reason: str) -> Answer:
    """How an operator's decision stands where the gates' answers stand otherwise."""
    why = f"fence by {wish_actor}: {reason}"
    return Answer(gate=Gate.OPERATOR, open=True, why=why)
