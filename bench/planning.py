"""How long one evacuation takes to plan, by the size of the cluster."""

from __future__ import annotations

from functools import partial

from bench.measure import interleaved, show
from evac_common.model.states import NodeState
from evac_scheduler.core.placement import NodeView, Request, View, plan


def run() -> None:
    for nodes, instances in ((10, 30), (100, 50), (1000, 50)):
        view = View(
            nodes=tuple(
                NodeView(
                    node_id=f"{index:032x}",
                    name=f"n{index}",
                    state=NodeState.UP,
                    vcpus=64,
                    memory_mib=262144,
                    vcpus_free=32,
                    memory_mib_free=131072,
                )
                for index in range(nodes)
            ),
            pools={},
        )
        requests = [
            Request(
                instance_id=f"{index:032x}",
                name=f"web-{index}",
                priority=3,
                vcpus=2,
                memory_mib=2048,
            )
            for index in range(instances)
        ]
        show(
            f"plan {instances} instances on {nodes} nodes",
            interleaved({"plan": partial(plan, view, requests)}, calls=1),
        )
