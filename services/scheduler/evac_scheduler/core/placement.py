"""Where instances go. Nodes and requests in, one decision per request out, each node with a reason.

A policy is a named function: a filter says why a node cannot take a request, a weigher says how
good a node would be. `plan` knows neither; both come as tuples. The result depends on nothing but
its arguments: requests are taken in plan order, ties are broken by the node's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple

from evac_common.model.identity import Gen
from evac_common.model.states import NodeState
from evac_scheduler.core.facts import plan_order

LOCAL_STORAGE: Final = "local_storage"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node and what is left of it: capacity less instances it owns, less reservations."""

    node_id: str
    name: str
    state: NodeState
    vcpus: int
    memory_mib: int
    vcpus_free: int
    memory_mib_free: int
    gen: Gen = field(
        default_factory=lambda: Gen(0, 0)
    )  # the session that a start there is issued for
    labels: Mapping[str, str] = field(default_factory=dict)
    bridges: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    name: str
    nodes: frozenset[str]  # ids of the nodes that reach it


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An instance that needs a node."""

    instance_id: str
    name: str
    priority: int
    vcpus: int
    memory_mib: int
    pools: tuple[str, ...] = ()  # names
    bridges: tuple[str, ...] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    avoid_node_id: str | None = None  # the last owner, when it failed or gave the instance up

    @property
    def order(self) -> tuple[int, int, str, str]:
        return plan_order(self.priority, self.memory_mib, self.name, self.instance_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    nodes: tuple[NodeView, ...]
    pools: Mapping[str, PoolView]


class Filter(NamedTuple):
    name: str
    refuses: Callable[[Request, NodeView, View], str | None]  # why not; None: no objection


class Weigher(NamedTuple):
    name: str
    weight: Callable[
        [Request, NodeView, View], float
    ]  # higher is better; the first weigher decides first


class CandidateVerdict(StrEnum):
    CHOSEN = "chosen"
    POSSIBLE = "possible"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    node: str  # name
    verdict: CandidateVerdict
    why: str

    def as_json(self) -> dict[str, str]:
        return {"node": self.node, "verdict": self.verdict.value, "why": self.why}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A node that cannot take a request, by which filter, and why."""

    filter: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`node_id` None: nobody can take it now, and `why` says so."""

    request: Request
    node_id: str | None
    why: str
    candidates: tuple[Candidate, ...]


def _state(request: Request, node: NodeView, view: View) -> str | None:
    return None if node.state is NodeState.UP else f"state {node.state.value}, not up"


def _vcpus(request: Request, node: NodeView, view: View) -> str | None:
    if request.vcpus <= node.vcpus_free:
        return None
    return f"{request.vcpus} vCPUs needed, {node.vcpus_free} of {node.vcpus} free"


def _memory(request: Request, node: NodeView, view: View) -> str | None:
    if request.memory_mib <= node.memory_mib_free:
        return None
    return f"{request.memory_mib} MiB needed, {node.memory_mib_free} of {node.memory_mib} MiB free"


def _pools(request: Request, node: NodeView, view: View) -> str | None:
    for name in request.pools:
        pool = view.pools.get(name)
        if pool is None:
            return f"pool {name} does not exist"
        if node.node_id not in pool.nodes:
            return f"pool {name} is not reachable from it"
    return None


def _bridges(request: Request, node: NodeView, view: View) -> str | None:
    missing = next((name for name in request.bridges if name not in node.bridges), None)
    return None if missing is None else f"bridge {missing} is missing"


def _selector(request: Request, node: NodeView, view: View) -> str | None:
    for key, value in sorted(request.node_selector.items()):
        if node.labels.get(key) != value:
            return f"label {key}={value} is required, it has {node.labels.get(key, 'none')}"
    return None


def _not_avoided(request: Request, node: NodeView, view: View) -> float:
    # A preference, not a filter: the only node that can take it is tried again after the back-off.
    return 0.0 if node.node_id == request.avoid_node_id else 1.0


def _spread(request: Request, node: NodeView, view: View) -> float:
    return (node.memory_mib_free - request.memory_mib) / node.memory_mib


FILTERS: Final = (
    Filter("state", _state),
    Filter("pools", _pools),
    Filter("bridges", _bridges),
    Filter("node_selector", _selector),
    Filter("vcpus", _vcpus),
    Filter("memory", _memory),
)
WEIGHERS: Final = (Weigher("not the last owner", _not_avoided), Weigher("spread", _spread))


def plan(
    view: View,
    requests: Sequence[Request],
    *,
    filters: Sequence[Filter] = FILTERS,
    weighers: Sequence[Weigher] = WEIGHERS,
) -> tuple[Decision, ...]:
    """One decision per request, in plan order. What one takes is gone for the next."""
    nodes = {
        node.node_id: node
        for node in sorted(view.nodes, key=lambda node: (node.name, node.node_id))
    }
    decisions: list[Decision] = []
    for request in sorted(requests, key=lambda request: request.order):
        now = View(nodes=tuple(nodes.values()), pools=view.pools)
        decision = _place(request, now, filters, weighers)
        decisions.append(decision)
        if decision.node_id is not None:
            taken = nodes[decision.node_id]
            nodes[decision.node_id] = replace(
                taken,
                vcpus_free=taken.vcpus_free - request.vcpus,
                memory_mib_free=taken.memory_mib_free - request.memory_mib,
            )
    return tuple(decisions)


def _place(
    request: Request, view: View, filters: Sequence[Filter], weighers: Sequence[Weigher]
) -> Decision:
    refusals = {node.node_id: _refusal(request, node, view, filters) for node in view.nodes}
    possible = [node for node in view.nodes if refusals[node.node_id] is None]
    # Nodes are sorted by name and `max` keeps the first of equals: ties go to the lower name.
    best = max(
        possible,
        key=lambda node: tuple(weigher.weight(request, node, view) for weigher in weighers),
        default=None,
    )
    candidates = tuple(
        _candidate(request, node, refusals[node.node_id], best) for node in view.nodes
    )
    if best is None:
        return Decision(
            request=request,
            node_id=None,
            why=_why_nowhere(request, view, refusals),
            candidates=candidates,
        )
    return Decision(
        request=request,
        node_id=best.node_id,
        why=f"{best.name}: most memory left of {len(possible)} possible nodes",
        candidates=candidates,
    )


def _refusal(
    request: Request, node: NodeView, view: View, filters: Sequence[Filter]
) -> Refusal | None:
    for each in filters:
        why = each.refuses(request, node, view)
        if why is not None:
            return Refusal(filter=each.name, why=why)
    return None


def _candidate(
    request: Request, node: NodeView, refusal: Refusal | None, best: NodeView | None
) -> Candidate:
    if refusal is not None:
        return Candidate(node=node.name, verdict=CandidateVerdict.REFUSED, why=refusal.why)
    left = f"{node.memory_mib_free - request.memory_mib} of {node.memory_mib} MiB would be left"
    if best is not None and node.node_id == best.node_id:
        return Candidate(node=node.name, verdict=CandidateVerdict.CHOSEN, why=left)
    if node.node_id == request.avoid_node_id:
        left = f"gave it up last time; {left}"
    return Candidate(node=node.name, verdict=CandidateVerdict.POSSIBLE, why=left)


def _why_nowhere(request: Request, view: View, refusals: Mapping[str, Refusal | None]) -> str:
    names = {node.node_id: node.name for node in view.nodes}
    for name in request.pools:
        pool = view.pools.get(name)
        if pool is None or len(pool.nodes) != 1:
            continue
        (home,) = pool.nodes
        refusal = refusals.get(home)
        if refusal is None or refusal.filter == "state":
            where = names.get(home, home)
            return f"{LOCAL_STORAGE}: pool {name} is on {where} alone, and it is not up"
    if not view.nodes:
        return "no node is enrolled"
    counts: dict[str, int] = {}
    for refusal in refusals.values():
        if refusal is not None:
            counts[refusal.filter] = counts.get(refusal.filter, 0) + 1
    said = ", ".join(f"{count} by {name}" for name, count in sorted(counts.items()))
    return f"no node can take it: {len(view.nodes)} refused ({said})"
