"""S6: a node executes what it was commanded in the session it is in, and its counters only rise."""

from __future__ import annotations

from typing import Final

from evac_lab.oracle.scene import Scene
from evac_lab.oracle.talk import Told
from evac_lab.oracle.truth import Life

# A start that was accepted may take this long before the guest executes; the node may be in a later
# term by then, of the same incarnation.
_START_S: Final = 15.0
_SLOW_START_S: Final = 320.0  # with slow storage or a slow hypervisor


class Sessions:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._boots: dict[str, dict[str, int]] = {}  # node id → boot id → incarnation
        self._unreliable = False  # a disk went back in time, or a node speaks as another

    def fault(self, component: str, kind: str) -> None:
        # A journal that went back is a fault: the node's word is not to be obeyed, but it is not
        # evac's word either. A clone speaks with another's name.
        if component == "C" and kind.rsplit(maxsplit=1)[-1] in ("restore", "identity"):
            self._unreliable = True

    def began(self, life: Life, at_s: float) -> None:
        scene, talk = self._scene, self._scene.talk
        node_id = scene.node_id(life.node)
        name = scene.name(life.instance)
        wrong = ""
        commanded = [
            order
            for order in talk.starts.get((node_id or "", life.instance, life.epoch), ())
            if order.run == life.run
        ]
        slow = "V" in scene.control.disturbed or "N" in scene.control.disturbed
        settled_s = at_s - (_SLOW_START_S if slow else _START_S)
        term = talk.term_before(node_id or "", life.incarnation, settled_s)
        if not commanded:
            wrong = f"epoch {life.epoch}, run {life.run} was never commanded to it"
        elif life.incarnation not in [order.incarnation for order in commanded]:
            told = sorted({order.incarnation for order in commanded})
            wrong = (
                f"commanded to incarnation {told}, the node is in incarnation {life.incarnation}"
            )
        elif max(order.term for order in commanded) < term:
            wrong = f"commanded in an older term than {term}, in which the node is"
        elif talk.tombs.get((node_id or "", life.instance), 0) >= life.epoch:
            wrong = f"the node told before that it released epoch {life.epoch}"
        if wrong:
            scene.verdicts.say(
                "S6",
                at_s,
                f"{name} executes on {life.node}: {wrong}",
                node=life.node,
                instance=life.instance,
            )

    def told(self, told: Told, at_s: float) -> None:
        """A boot raises the incarnation, and no later boot has a lower one."""
        if told.kind != "registered" or not told.boot or self._unreliable:
            return
        boots = self._boots.setdefault(told.node_id, {})
        known = boots.get(told.boot)
        highest = max((inc for boot, inc in boots.items() if boot != told.boot), default=0)
        machine = self._scene.picture.name_of(told.node_id)
        if known is None and told.incarnation <= highest:
            self._scene.verdicts.say(
                "S6",
                at_s,
                f"{machine} booted and is in incarnation {told.incarnation}; "
                f"in an earlier boot it was in incarnation {highest}",
                node=machine,
            )
        boots[told.boot] = max(known or 0, told.incarnation)
