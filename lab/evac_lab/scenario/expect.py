"""The expectations' language, and their judgement over what the run left behind.

instance web-1 running on n2
instance web-1 running
instance web-1 stopped
node n1 fenced
no violations
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evac_common.model.states import NodeState
from evac_lab.scenario.timeline import NotUnderstood


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRuns:
    instance: str
    node: str | None  # None: anywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStopped:
    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeIs:
    node: str
    state: NodeState


@dataclass(frozen=True, slots=True, kw_only=True)
class NoViolations:
    pass


Expectation = InstanceRuns | InstanceStopped | NodeIs | NoViolations


def parse_expectation(line: str) -> Expectation:
    """Read one line. Raises NotUnderstood saying what was expected."""
    match line.split():
        case ["no", "violations"]:
            return NoViolations()
        case ["instance", instance, "running", "on", node]:
            return InstanceRuns(instance=instance, node=node)
        case ["instance", instance, "running"]:
            return InstanceRuns(instance=instance, node=None)
        case ["instance", instance, "stopped"]:
            return InstanceStopped(instance=instance)
        case ["node", node, state] if state in set(NodeState):
            return NodeIs(node=node, state=NodeState(state))
        case _:
            raise NotUnderstood(
                "expected `instance NAME running [on NODE]`, `instance NAME stopped`, "
                "`node NAME STATE` or `no violations`"
            )


def failures(
    expectations: Sequence[Expectation],
    *,
    running_on: Mapping[str, Sequence[str]],
    node_states: Mapping[str, str],
    violations: Sequence[str],
) -> list[str]:
    """What does not hold, a sentence each.

    `running_on` comes from the hypervisors themselves: instance → nodes on which it executes now.
    """
    found: list[str] = []
    for expectation in expectations:
        match expectation:
            case InstanceRuns(instance=instance, node=node):
                where = list(running_on.get(instance, ()))
                if len(where) != 1 or (node is not None and where != [node]):
                    wanted = f"on {node}" if node else "on one node"
                    found.append(
                        f"instance {instance} should run {wanted}; it runs on {where or 'none'}"
                    )
            case InstanceStopped(instance=instance):
                if where := list(running_on.get(instance, ())):
                    found.append(f"instance {instance} should be stopped; it runs on {where}")
            case NodeIs(node=node, state=state):
                if node_states.get(node) != state:
                    found.append(f"node {node} should be {state}; it is {node_states.get(node)}")
            case NoViolations():
                found.extend(violations)
    return found
