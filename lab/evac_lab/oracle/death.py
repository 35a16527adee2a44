"""S4, S5 and S13: the proven dead do nothing, and nothing is asked of them."""

from __future__ import annotations

from evac_lab.oracle.rows import LIVE_NOT, Changes, Command
from evac_lab.oracle.scene import Scene
from evac_lab.oracle.talk import decode, verb_of
from evac_lab.oracle.truth import Life


class Death:
    """What was ever proven stays proven here, whatever the database forgets."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._dead: dict[str, tuple[int, str]] = {}  # node id → highest incarnation, kind of proof

    def committed(self, changes: Changes) -> None:
        for proof in changes.proofs:
            self._died(proof.node_id, proof.incarnation, proof.kind, changes)
        for _, node in changes.nodes:
            if node is not None and node.state == "fenced":
                self._died(node.node_id, node.incarnation, "no proof at all", changes)
        for command in changes.commands:
            self._issued(command, changes.at_s)

    def _died(self, node_id: str, incarnation: int, kind: str, changes: Changes) -> None:
        known = self._dead.get(node_id, (0, ""))
        if incarnation <= known[0]:
            return
        self._dead[node_id] = (incarnation, kind)
        machine = self._scene.picture.name_of(node_id)
        for life in self._scene.truth.on(machine):
            self._look(life, changes.at_s)

    def began(self, life: Life, at_s: float) -> None:
        self._look(life, at_s)

    def _look(self, life: Life, at_s: float) -> None:
        node_id = self._scene.node_id(life.node)
        dead, kind = self._dead.get(node_id or "", (0, ""))
        if life.incarnation <= dead:
            self._scene.verdicts.say(
                "S4",
                at_s,
                f"incarnation {dead} of {life.node} is proven dead ({kind}), and "
                f"{self._scene.name(life.instance)} of incarnation {life.incarnation} executes",
                node=life.node,
                instance=life.instance,
            )

    def _issued(self, command: Command, at_s: float) -> None:
        """S5, S13: `command` went into the outbox in a transaction that left the node so."""
        verb, node_id = verb_of(command.routing_key)
        if verb not in ("start", "session"):
            return
        picture = self._scene.picture
        node = picture.nodes.get(node_id)
        state = node.state if node else "unknown"
        machine = picture.name_of(node_id)
        said = decode(command.body)
        if state in LIVE_NOT:
            if verb == "session" and not said.get("allowed"):
                later_life = self._scene.talk.incarnation.get(node_id, 0)
                # For an earlier life it is no session, but a question: refused, and registered on.
                asked = said.get("incarnation", later_life) < later_life
                if asked or (state == "fenced" and said.get("proven_dead")):
                    return
            self._scene.verdicts.say(
                "S5", at_s, f"{machine} is {state} and was issued a {verb}", node=machine
            )
        if verb == "start" and picture.flags is not None and picture.flags.recovering:
            instance = said.get("instance_id", "")
            self._scene.verdicts.say(
                "S13",
                at_s,
                f"{machine} was issued a start of {self._scene.name(instance)} "
                "while the database is recovering what it forgot",
                node=machine,
                instance=instance,
            )
