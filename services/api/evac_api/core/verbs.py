"""Which operator's verb is allowed in which state of a node; a refusal names what would do."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from evac_common.model.states import NodeState


class NodeVerb(StrEnum):
    FENCE = "fence"
    CONFIRM_DOWN = "confirm_down"
    EVACUATE = "evacuate"
    FORGET = "forget"

    @property
    def shown(self) -> str:
        return self.value.replace("_", "-")


class Refused(NamedTuple):
    why: str
    hint: str


_S, _V = NodeState, NodeVerb

ALLOWED: Final = {
    _V.FENCE: (_S.UP, _S.DEGRADED, _S.JOINING, _S.SUSPECT),
    _V.CONFIRM_DOWN: (_S.SUSPECT, _S.FENCING, _S.BLOCKED),
    _V.EVACUATE: (_S.FENCED, _S.SUSPECT, _S.FENCING),
    _V.FORGET: (_S.NEW, _S.FENCED),
}

#: For a node that lives. There is nothing gentler: drain belongs to a later version.
_EMPTY: Final = (
    "drain is not in this version: shut its machine down in good order, and its instances start"
    " elsewhere"
)

#: Every pair that is not allowed, with what would do.
REFUSED: Final = {
    (_V.FENCE, _S.NEW): (
        "it never registered, so it runs nothing",
        "`evac node forget` removes it",
    ),
    (_V.FENCE, _S.FENCING): (
        "it is being fenced already",
        "wait, or vouch for it with `evac node confirm-down`",
    ),
    (_V.FENCE, _S.BLOCKED): (
        "every automatic method failed",
        "make sure that it is off, then `evac node confirm-down`",
    ),
    (_V.FENCE, _S.FENCED): (
        "it is proven dead already",
        "`evac node evacuate` follows its instances",
    ),
    (_V.CONFIRM_DOWN, _S.NEW): (
        "it never registered, so it runs nothing",
        "`evac node forget` removes it",
    ),
    (_V.CONFIRM_DOWN, _S.JOINING): (
        "its daemon speaks, so it is not down",
        "`evac node fence` cuts it off",
    ),
    (_V.CONFIRM_DOWN, _S.UP): ("it is up", "`evac node fence` cuts it off"),
    (_V.CONFIRM_DOWN, _S.DEGRADED): (
        "it is in trouble, but alive",
        "`evac node fence` cuts it off",
    ),
    (_V.CONFIRM_DOWN, _S.FENCED): (
        "it is proven dead already",
        "`evac node evacuate` follows its instances",
    ),
    (_V.EVACUATE, _S.NEW): ("it never registered, so it runs nothing", "there is nothing to do"),
    (_V.EVACUATE, _S.JOINING): (
        "it is joining, so it is alive",
        f"{_EMPTY}; `evac node fence` cuts it off",
    ),
    (_V.EVACUATE, _S.UP): ("it is up", _EMPTY),
    (_V.EVACUATE, _S.DEGRADED): (
        "it is in trouble, but alive",
        f"{_EMPTY}; `evac node fence` cuts it off",
    ),
    (_V.EVACUATE, _S.BLOCKED): (
        "nothing proves it dead",
        "make sure that it is off, then `evac node confirm-down`",
    ),
    (_V.FORGET, _S.JOINING): ("it is alive", "`evac node fence` it first"),
    (_V.FORGET, _S.UP): ("it is up", f"{_EMPTY}; then wait until it is fenced"),
    (_V.FORGET, _S.DEGRADED): (
        "it is in trouble, but alive",
        f"{_EMPTY}; then wait until it is fenced",
    ),
    (_V.FORGET, _S.SUSPECT): ("nothing proves it dead yet", "wait, or `evac node fence` it"),
    (_V.FORGET, _S.FENCING): ("it is being fenced", "wait until it is fenced"),
    (_V.FORGET, _S.BLOCKED): (
        "nothing proves it dead",
        "make sure that it is off, then `evac node confirm-down`",
    ),
}


def refusal(verb: NodeVerb, name: str, state: NodeState) -> Refused | None:
    """None when the verb is allowed now."""
    if state in ALLOWED[verb]:
        return None
    why, hint = REFUSED[verb, state]
    return Refused(f"cannot {verb.shown} {name}: {why}", hint)


def forget_refusal(name: str, *, owns: int, open_items: int) -> Refused | None:
    """A node may go only when nothing belongs to it any more."""
    if owns:
        return Refused(
            f"cannot forget {name}: the ledger shows it as owner of {owns} instance(s)",
            "stop or delete them, or wait until they run elsewhere",
        )
    if open_items:
        return Refused(
            f"cannot forget {name}: {open_items} of its instances wait to be started elsewhere",
            "wait, or stop them",
        )
    return None
