"""S7: what is recorded of an instance was reported by its owner, in session, about its epoch."""

from __future__ import annotations

from evac_lab.oracle.rows import Changes, Owner, Release, Status
from evac_lab.oracle.scene import Scene
from evac_lab.oracle.talk import Key


class Reports:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def committed(self, changes: Changes) -> None:
        if changes.wholesale:
            return
        for before, after in changes.statuses:
            if after is not None and (before is None or before[:5] != after[:5]):
                self._recorded(after, changes.at_s)
        for release in changes.releases:
            self._released(release, changes.at_s)

    def _recorded(self, status: Status, at_s: float) -> None:
        if status.phase not in ("running", "exited"):
            return
        picture, talk = self._scene.picture, self._scene.talk
        owner = picture.owner(status.instance)
        key = self._key(status.instance, status.epoch or 0, status.run or 0, status.node_id or "")
        why = _not_the_owners(owner, status.node_id, status.epoch, key)
        if not why and status.phase == "running" and key not in talk.running:
            why = "no report of its node's present session says that it runs"
        if not why and status.phase == "exited" and key not in talk.gone:
            looked = (key.node_id, key.term, key.incarnation) in talk.looked
            if not looked or key in talk.running:
                why = "no report of its node's present session says that it ended"
        if why:
            self._say(
                status.instance, status.node_id, f"is recorded as {status.phase}: {why}", at_s
            )

    def _released(self, release: Release, at_s: float) -> None:
        owner = self._scene.picture.ledger.get(release.instance, {}).get(release.epoch)
        key = self._key(release.instance, release.epoch, 0, release.node_id)
        why = _not_the_owners(owner, release.node_id, release.epoch, key)
        where = (key.node_id, key.instance, key.term, key.incarnation)
        if not why and self._scene.talk.tombs_in.get(where, 0) < release.epoch:
            why = "no report of its node's present session says so"
        if why:
            about = f"epoch {release.epoch} is recorded as released: {why}"
            self._say(release.instance, release.node_id, about, at_s)

    def _key(self, instance: str, epoch: int, run: int, node_id: str) -> Key:
        node = self._scene.picture.nodes.get(node_id)
        term, incarnation = (node.term, node.incarnation) if node else (0, 0)
        return Key(node_id, instance, epoch, run, term, incarnation)

    def _say(self, instance: str, node_id: str | None, what: str, at_s: float) -> None:
        node = self._scene.picture.name_of(node_id)
        sentence = f"{self._scene.name(instance)} on {node} {what}"
        self._scene.verdicts.say("S7", at_s, sentence, node=node, instance=instance)


def _not_the_owners(owner: Owner | None, node_id: str | None, epoch: int | None, key: Key) -> str:
    if owner is None:
        return "it has no owner"
    if (owner.node_id, owner.epoch) != (node_id, epoch):
        return f"the ledger's last epoch is {owner.epoch}, on another node or another epoch"
    if owner.incarnation != key.incarnation:
        return (
            f"its epoch is of incarnation {owner.incarnation}, "
            f"the node is in incarnation {key.incarnation}"
        )
    return ""
