"""Events: public facts, in the past tense, for everyone. The routing key is name, then subject.

Delivered at least once; ordered per subject as stored; replayed from the stream `evac.events` and
from the api's event table. Between services an event is a nudge: the receiver re-reads its rows.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from evac_common.messages.registry import Family, Message
from evac_common.model.identity import Id
from evac_common.model.states import NodeState, ProofKind, RunStrategy, Trouble


class Event(Message, family=Family.EVENT):
    subject_field: ClassVar[str]

    def subject(self) -> str:
        return str(getattr(self, self.subject_field))

    def routing_key(self) -> str:
        return f"{self.name}.{self.subject()}"


class OfNode(Event, writer="monitor"):
    subject_field: ClassVar[str] = "node_id"
    node_id: Id
    node: str = Field(description="The node's name, for display.")
    why: str = Field(default="", description="The reason, in a sentence.")


class NodeEnrolled(OfNode, name="node.enrolled", writer="api"):
    """An operator enrolled a node."""


class NodeForgotten(OfNode, name="node.forgotten", writer="api"):
    """An operator removed a node that owns nothing."""


class NodeRegistered(OfNode, name="node.registered"):
    """A node's daemon registered and was given a session."""

    incarnation: int
    term: int


class NodeRefused(OfNode, name="node.refused"):
    """A registration waits for the operator: another DMI UUID, or a lower incarnation."""

    alarm: Literal[True] = True


class NodeUp(OfNode, name="node.up"):
    """A node serves: its session is applied and its heartbeats arrive."""

    incarnation: int


class NodeSuspect(OfNode, name="node.suspect"):
    """A node fell silent. Nothing was touched."""

    silent_s: float = Field(description="Silence by this monitor's clock, seconds.")


class NodeDegraded(OfNode, name="node.degraded"):
    """A node is alive and in trouble: it receives no instance, and is not fenced for it.

    Said again when its reasons change.
    """

    incarnation: int
    troubles: list[Trouble] = Field(max_length=8)
    alarm: Literal[True] = True


class NodeRecovered(OfNode, name="node.recovered"):
    """Nothing is wrong any more with a node that was degraded."""

    incarnation: int
    troubles: list[Trouble] = Field(max_length=8, description="What was wrong with it.")


class NodeIsolated(OfNode, name="node.isolated"):
    """A node is silent, and a second channel shows it alive: its network is cut, or its daemon."""

    incarnation: int
    on_isolated: Literal["wait", "fence"] = Field(
        description="What the monitor is set to do with it."
    )
    alarm: Literal[True] = True


class NodeFencing(OfNode, name="node.fencing"):
    """It was decided to cut a node off; it gets no session and no instance from here on."""

    incarnation: int


class NodeBlocked(OfNode, name="node.blocked"):
    """No automatic method proved a node dead: a person must decide. Said every 5 minutes."""

    incarnation: int
    alarm: Literal[True] = True


class NodeDown(OfNode, name="node.down"):
    """A node is proven dead: whatever it ran may be started elsewhere."""

    incarnation: int = Field(description="This incarnation and all lower ones are dead.")
    proof: ProofKind
    evidence: str = Field(description="What was seen, in a sentence.")


class NodeRebooted(OfNode, name="node.rebooted"):
    """A node came back with a higher incarnation before it was fenced: what it ran is gone."""

    incarnation: int
    previous_incarnation: int


class NodeStillAlive(OfNode, name="node.fenced_alive"):
    """An incarnation that was proven dead registered again: the proof was wrong."""

    incarnation: int
    alarm: Literal[True] = True


class FencingHeld(OfNode, name="node.fencing_held"):
    """A node is silent long enough to be fenced and a gate is shut; said once per gate."""

    gate: str = Field(description="The gate that is shut.")


class OfInstance(Event, writer="scheduler"):
    subject_field: ClassVar[str] = "instance_id"
    instance_id: Id
    instance: str = Field(description="The instance's name, for display.")
    why: str = ""


class InstanceIntent(OfInstance, name="intent.instance", writer="api"):
    """What a user wants of an instance changed."""

    run_strategy: RunStrategy
    deleted: bool = False


class NodeIntent(OfNode, name="intent.node", writer="api"):
    """An operator's wish or declaration about a node changed."""

    verb: str


class ClusterIntent(Event, name="intent.cluster", writer="api"):
    """An operator's wish about the whole cluster (disarm, arm, storm release)."""

    subject_field: ClassVar[str] = "verb"
    verb: str
    why: str = ""


class InstancePlaced(OfInstance, name="instance.placed"):
    """An instance got an owner: it is written in the ledger and its start is commanded."""

    node_id: Id
    node: str
    epoch: int
    run: int


class InstanceStarted(OfInstance, name="instance.started"):
    """A node reported an instance running."""

    node_id: Id
    node: str
    epoch: int
    run: int


class InstanceEvacuated(OfInstance, name="instance.evacuated"):
    """An instance of a dead node runs elsewhere."""

    from_node: str
    to_node: str
    epoch: int
    took_s: float = Field(
        description="From the proof to the running report, seconds: the monitor's clock and the "
        "scheduler's.",
    )


class InstanceStartFailed(OfInstance, name="instance.start_failed"):
    """A start failed or was refused; the instance stays an open item."""

    node_id: Id
    node: str
    epoch: int
    kind: str
    alarm: bool = Field(
        default=False,
        description="It fails for so long that a person should look (a lock is held).",
    )


class InstanceExited(OfInstance, name="instance.exited"):
    """The guest ended by itself on its owner."""

    node_id: Id
    node: str
    epoch: int
    reason: str


class InstanceStopped(OfInstance, name="instance.stopped"):
    """An instance's owner released it."""

    node_id: Id
    node: str
    epoch: int


class InstanceDeleted(OfInstance, name="instance.deleted", writer="api"):
    """An instance's record is gone; its last owner released it or is proven dead."""


class DoubleRunSuspected(OfInstance, name="instance.double_run_suspected"):
    """A node shows a running domain of an epoch that the ledger has given to a later owner."""

    node_id: Id
    node: str
    epoch: int
    alarm: Literal[True] = True


class InstanceQuarantined(OfInstance, name="instance.quarantined"):
    """A node shows a domain that nobody allowed; it runs on until an operator decides."""

    node_id: Id
    node: str
    epoch: int
    alarm: Literal[True] = True


class InstanceAdopted(OfInstance, name="instance.adopted"):
    """The database had forgotten an owner; it is in the ledger again, by its node's own word."""

    node_id: Id
    node: str
    epoch: int


class InstanceWaiting(OfInstance, name="instance.waiting"):
    """An instance of a dead node does not run elsewhere for minutes; said again and again."""

    node_id: Id
    node: str = Field(description="The dead node.")
    waits_s: float = Field(description="Since its evacuation item was opened, seconds.")
    alarm: Literal[True] = True


class InstanceUnreadable(OfInstance, name="instance.unreadable"):
    """The stored declaration of an instance cannot be read: it is left as it is until it can."""

    alarm: Literal[True] = True


class OfEvacuation(Event, writer="scheduler"):
    subject_field: ClassVar[str] = "evacuation_id"
    evacuation_id: Id
    node_id: Id
    node: str


class EvacuationOpened(OfEvacuation, name="evacuation.opened"):
    """A dead node's instances became open items."""

    instances: int


class EvacuationPlanned(OfEvacuation, name="evacuation.planned"):
    """Targets were chosen and reserved; what found no place stays open."""

    reserved: int
    waiting: int


class EvacuationDone(OfEvacuation, name="evacuation.done"):
    """Every item of an evacuation is done or cancelled."""

    instances: int
    took_s: float = Field(description="From the proof to the end of the last item, seconds.")


class OfOperation(Event, writer="api"):
    subject_field: ClassVar[str] = "operation_id"
    operation_id: Id
    request_id: str = Field(default="", description="The request's id, if a request began it.")
    verb: str
    target: str
    actor: str
    message: str = ""


class OperationAccepted(OfOperation, name="operation.accepted"):
    """A request was accepted."""


class OperationSucceeded(OfOperation, name="operation.succeeded"):
    """What was asked for holds."""


class OperationFailed(OfOperation, name="operation.failed"):
    """What was asked for was refused or cannot be done; the message says why."""


class OfCluster(Event, writer="monitor"):
    subject_field: ClassVar[str] = "cluster"
    cluster: str = "evac"
    why: str = ""


class StormDeclared(OfCluster, name="cluster.storm"):
    """Too much looks dead: nothing is fenced automatically until an operator releases it."""

    alarm: Literal[True] = True
    silent_nodes: list[str] = Field(max_length=10000)


class StormReleased(OfCluster, name="cluster.storm_released"):
    """An operator released the storm."""


class Disarmed(OfCluster, name="cluster.disarmed"):
    """Automatic fencing is switched off until the time given, by an operator."""

    until: str = Field(description="RFC 3339, UTC.")


class StillDisarmed(OfCluster, name="cluster.still_disarmed"):
    """Automatic fencing is still switched off; said again and again until it is not."""

    until: str = Field(description="RFC 3339, UTC.")
    left_s: float = Field(ge=0, description="Until it arms itself again, seconds.")


class Armed(OfCluster, name="cluster.armed"):
    """Automatic fencing is on again: an operator's wish, or the time limit ended."""


class Recovering(OfCluster, name="cluster.recovering"):
    """The database may have gone back in time: nothing is started, evacuated or cut off until every
    node has shown what it runs.
    """

    alarm: Literal[True] = True
    term: int = Field(description="The new term: every node needs a session in it.")


class Recovered(OfCluster, name="cluster.recovered"):
    """What runs where is known again, and the forgotten epochs are adopted."""

    term: int
    adopted: int = Field(description="Epochs that the ledger had forgotten.")
    left_alone: int = Field(description="Domains that only an operator can judge; they run on.")


class NodeStateChanged(OfNode, name="node.state"):
    """A node's state changed; said for every transition, next to the specific event."""

    old: NodeState
    new: NodeState
