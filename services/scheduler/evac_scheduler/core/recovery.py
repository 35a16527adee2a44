"""The database went back in time: may it be believed again, and what did it forget?

While a cluster recovers nothing is started anywhere and nothing that executes is ended, so what
executes as the nodes show it, each in its session of the new term, is one picture. (A node may
clear away what does not execute and is over by its own journal.) The argument, for one instance:

- Epochs of a history follow each other, each with a proof that the one before is over. A node
  starts an epoch only when commanded. So a node that shows epoch e is itself the trace of a row e
  of the forgotten history, and of the proofs below it.
- Only one node shows the instance, above the ledger's end: that row existed, everybody else was
  heard and shows none, or is proven down since. It is adopted.
- Two nodes show it. One whose epoch is over by the ledger's own rows and proofs is no rival: those
  are facts of every history. Otherwise the higher epoch says that the lower one was proven over,
  the lower one is alive and says that it was not, and the proof itself is forgotten. Nobody here
  can know which is wrong, so the higher one does not win: both stay as they are, nothing else is
  started, and a person is called.

The database's own triggers refuse an adoption by the same rules.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from evac_common.model.states import NodeState


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node, and what it has told in the present term."""

    node_id: str
    name: str
    state: NodeState
    term: int  # of its session
    incarnation: int
    down_term: int  # the recovery in which it was proven down
    shown_term: int  # the session of its newest inventory
    shown_incarnation: int

    def accounted(self, term: int) -> bool:
        """Whether everything on it is known in this term."""
        heard = (self.term, self.shown_term) == (term, term)
        told = heard and self.shown_incarnation == self.incarnation
        return self.state is NodeState.NEW or self.down_term == term or told


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A domain that a node shows in the present term."""

    instance_id: str
    node_id: str
    node: str
    epoch: int
    run: int
    running: bool
    incarnation: int
    explained: bool  # it is the ledger's own row, or over by the ledger's own rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """The ledger's end for an instance. Epoch 0: it has no row."""

    epoch: int
    over: bool  # released, or its owner proven dead


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Not yet: these nodes were neither heard in this term nor proven down since."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftAlone:
    sighting: Sighting
    why: str
    rivals: bool  # another node shows the instance too


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """All are heard: these epochs are the ledger's again, those wait for an operator."""

    epochs: tuple[Sighting, ...]
    left: tuple[LeftAlone, ...]


def decide(
    term: int,
    nodes: Sequence[Node],
    sightings: Sequence[Sighting],
    ledger: Mapping[str, Last],
    wanted: Collection[str],
) -> Waits | Adopt:
    """`wanted`: the instances that have a record of their own, not deleted."""
    unheard = tuple(sorted(node.name for node in nodes if not node.accounted(term)))
    if unheard:
        return Waits(nodes=unheard)
    by_instance: dict[str, list[Sighting]] = {}
    for sighting in sorted(sightings, key=lambda each: (each.instance_id, each.node_id)):
        by_instance.setdefault(sighting.instance_id, []).append(sighting)
    epochs: list[Sighting] = []
    left: list[LeftAlone] = []
    for instance_id, shown in by_instance.items():
        last = ledger.get(instance_id, Last(epoch=0, over=True))
        alive = [each for each in shown if not _over(each, last)]
        for each in alive:
            if each.explained:
                continue
            rivals = [other for other in alive if other.node_id != each.node_id]
            why = _obstacle(each, last, rivals, known=instance_id in wanted)
            if why:
                left.append(LeftAlone(sighting=each, why=why, rivals=bool(rivals)))
            else:
                epochs.append(each)
    return Adopt(epochs=tuple(epochs), left=tuple(left))


def _over(sighting: Sighting, last: Last) -> bool:
    """By the ledger's own rows and proofs."""
    return sighting.epoch < last.epoch or (sighting.epoch == last.epoch and last.over)


def _obstacle(sighting: Sighting, last: Last, rivals: Sequence[Sighting], *, known: bool) -> str:
    """Why this epoch cannot be adopted; empty: it can."""
    if rivals:
        others = " and ".join(f"{each.node} shows epoch {each.epoch}" for each in rivals)
        return f"{others} too, and nobody can know which of them is over: a person must end one"
    if not known:
        return "no such instance is declared: declare it again, or end it by hand"
    if sighting.epoch <= last.epoch:
        return f"epoch {sighting.epoch} belongs to another owner"
    return ""
