"""What is known of an instance, its owner and its node at one instant. Values, no decisions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from evac_common.model.identity import Gen
from evac_common.model.manifest import InstanceManifest
from evac_common.model.states import NodeState, Phase


class Owner(StrEnum):
    """What the ledger and the proofs say about an instance's last owner."""

    NONE = "none"  # never placed, or its last epoch was released
    LIVE = "live"  # owns it, as far as anybody can prove
    DEAD = "dead"  # owned it, and its incarnation is proven dead


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The last ledger row of an instance."""

    epoch: int
    node_id: str
    node: str  # name, for people
    incarnation: int
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The first proof that covers a claim. Proofs never go away, so this one stays the first."""

    proof_id: str
    incarnation: int  # all incarnations up to this one are dead
    kind: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An instance with all that decides its next step."""

    instance_id: str
    name: str
    wanted: bool  # its user wants it to run
    # None: its record is gone and what is left of it is cleared away, unless `unreadable`.
    manifest: InstanceManifest | None
    phase: Phase | None  # None: never seen before
    attempts: int
    next_at: datetime | None
    reason: str
    changed_at: datetime | None
    seen_epoch: int | None  # epoch and run that `phase` is about
    seen_run: int | None
    claim: Claim | None
    release_id: str | None
    proof: Proof | None
    node_state: NodeState | None  # of the claim's node
    node_gen: Gen | None
    reserved_node_id: str | None
    unreadable: str = ""  # why its stored declaration cannot be read: it is left as it is
    stranger: str = ""  # a living domain of it that the ledger does not explain, in words

    @property
    def is_gone(self) -> bool:
        return self.manifest is None and not self.unreadable

    @property
    def owner(self) -> Owner:
        if self.claim is None or self.release_id is not None:
            return Owner.NONE
        return Owner.LIVE if self.proof is None else Owner.DEAD

    @property
    def priority_key(self) -> tuple[int, int, str, str]:
        """Who goes first: priority, then the largest, then the name."""
        if self.manifest is None:
            return (9, 0, self.name, self.instance_id)
        return plan_order(
            self.manifest.priority, self.manifest.memory_mib, self.name, self.instance_id
        )


def plan_order(
    priority: int, memory_mib: int, name: str, instance_id: str
) -> tuple[int, int, str, str]:
    """Tier 1 first; within a tier the largest first, while there are still big holes."""
    return (priority, -memory_mib, name, instance_id)
