"""S1, S2, S3 and S9: who executes is who the ledger names, and the ledger is a chain of proofs."""

from __future__ import annotations

from evac_lab.oracle.rows import Changes, Owner, Picture, Proof, Release
from evac_lab.oracle.scene import Scene
from evac_lab.oracle.truth import Life


class Ledger:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._ever: set[tuple[str, int, str]] = set()  # instance, epoch, node: also before restores

    def began(self, life: Life, at_s: float) -> None:
        """S1: nothing else of it executes. S2: the ledger named this node before."""
        scene = self._scene
        name = scene.name(life.instance)
        for other in scene.truth.alive.get(life.instance, ()):
            if other is not life:
                scene.verdicts.say(
                    "S1",
                    at_s,
                    f"{name} executes on {other.node} (epoch {other.epoch}, run {other.run}) "
                    f"and on {life.node} (epoch {life.epoch}, run {life.run})",
                    node=life.node,
                    instance=life.instance,
                )
        node_id = scene.node_id(life.node)
        if node_id is None or (life.instance, life.epoch, node_id) not in self._ever:
            scene.verdicts.say(
                "S2",
                at_s,
                f"{name} executes on {life.node} under epoch {life.epoch}, "
                "which the ledger never gave that node",
                node=life.node,
                instance=life.instance,
            )

    def committed(self, changes: Changes) -> None:
        scene = self._scene
        for owner in changes.owners:
            self._ever.add((owner.instance, owner.epoch, owner.node_id))
            fault = unproven(scene.picture, owner, went_back=scene.restores > 0)
            if fault:
                scene.verdicts.say(
                    "S3",
                    changes.at_s,
                    f"{scene.name(owner.instance)}, epoch {owner.epoch} on "
                    f"{scene.picture.name_of(owner.node_id)}: {fault}",
                    node=scene.picture.name_of(owner.node_id),
                    instance=owner.instance,
                )
        if not changes.wholesale:
            self._forgotten(changes)

    def _forgotten(self, changes: Changes) -> None:
        """S9: a record goes only when nobody can own the instance any more."""
        gone = {
            before[0]: before
            for before, after in (*changes.specs, *changes.statuses)
            if before is not None and after is None
        }
        for instance in gone:
            owner = self._scene.picture.owner(instance)
            if owner is not None and not self._scene.picture.over(owner):
                node = self._scene.picture.name_of(owner.node_id)
                self._scene.verdicts.say(
                    "S9",
                    changes.at_s,
                    f"the record of {self._scene.name(instance)} is gone, and epoch {owner.epoch} "
                    f"on {node} is neither released nor proven dead",
                    node=node,
                    instance=instance,
                )

    def sweep(self, at_s: float) -> None:
        """S3: what was written stays as it was."""
        seen = {
            (owner.instance, owner.epoch, owner.node_id, owner.incarnation)
            for epochs in self._scene.picture.ledger.values()
            for owner in epochs.values()
        }
        for instance, epoch, *_ in sorted(seen ^ set(self._scene.database.ledger())):
            self._scene.verdicts.say(
                "S3",
                at_s,
                f"{self._scene.name(instance)}, epoch {epoch}: its ledger row was changed, "
                "removed, or put in behind the last one",
                instance=instance,
            )


def unproven(picture: Picture, owner: Owner, *, went_back: bool) -> str:
    """Why this row should not be in the ledger; empty: it should."""
    epochs = picture.ledger.get(owner.instance, {})
    if owner.adoption is not None:
        if not went_back:
            return "adopted from its node's word, though the database never went back in time"
        return ""
    if owner.epoch == 1:
        first = owner.proof_node is None and owner.proof_release is None
        return "" if first else "the first epoch follows nobody and has a proof"
    previous = epochs.get(owner.epoch - 1)
    if previous is None:
        return "there is no epoch before it"
    if (owner.proof_node is None) == (owner.proof_release is None):
        return "it has not exactly one proof that the epoch before is over"
    if owner.proof_node is not None:
        return _by_death(owner, previous, picture.proofs.get(owner.proof_node))
    release = next((r for r in picture.releases.values() if r.id == owner.proof_release), None)
    return _by_release(owner, previous, release)


def _by_death(owner: Owner, previous: Owner, proof: Proof | None) -> str:
    if proof is None:
        return "its proof does not exist"
    if proof.node_id != previous.node_id:
        return "its proof is about another node than the owner before"
    if proof.incarnation < previous.incarnation:
        return (
            f"its proof ends at incarnation {proof.incarnation}, "
            f"the owner before was incarnation {previous.incarnation}"
        )
    return _in_order(owner, previous, proof.seq)


def _by_release(owner: Owner, previous: Owner, release: Release | None) -> str:
    if release is None:
        return "its release does not exist"
    said = (release.instance, release.epoch, release.node_id)
    if said != (previous.instance, previous.epoch, previous.node_id):
        return "its release is not of the epoch before, by its owner"
    return _in_order(owner, previous, release.seq)


def _in_order(owner: Owner, previous: Owner, seq: int) -> str:
    """0 means: older than our first look, or than the last restore."""
    if seq and seq <= previous.seq:
        return "its proof is older than the epoch that it ends"
    if owner.seq and seq > owner.seq:
        return "its proof is younger than itself"
    return ""
