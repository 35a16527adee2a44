"""Other ways than heartbeats to see a node: a slot on shared storage, and what its peers reach.

What they say is the truth of the simulated hardware as far as the network's cuts let it through. A
node shows itself on the storage while its power is on and it can write there, whatever its daemon
does; a peer reaches it while both are on and no way between them is cut.
"""

from __future__ import annotations

from evac_lab.scenario.timeline import BROKER, STORAGE
from evac_lab.simulated.machine import Machine
from evac_lab.simulated.network import Network
from evac_lab.simulated.nodes import Nodes
from evac_monitor.adapters.witnesses_simulated import SimulatedPeers, SimulatedSecondChannel


class Witnesses:
    """The monitors' second channel and peers over the simulated hardware."""

    def __init__(self, network: Network, nodes: Nodes) -> None:
        self._network = network
        self._nodes = nodes

    def second_channel(self, monitor: str) -> SimulatedSecondChannel:
        """As the monitor of this name sees it; cut off from the storage it sees nothing."""

        def alive(node_id: str) -> bool | None:
            if not all(self._network.passes(monitor, STORAGE)):
                return None
            node = self._node(node_id)
            return node.is_on() and self._network.passes(node.name, STORAGE)[0]

        return SimulatedSecondChannel(alive)

    def peers(self) -> SimulatedPeers:
        """A peer that is off, or that cannot speak to the control plane, does not answer."""

        def reaches(peer_id: str, node_id: str) -> bool | None:
            peer, node = self._node(peer_id), self._node(node_id)
            if not peer.is_on() or not all(self._network.passes(peer.name, BROKER)):
                return None
            return node.is_on() and self._between(peer, node)

        return SimulatedPeers(reaches)

    def _between(self, one: Machine, other: Machine) -> bool:
        ways = ((one.name, other.name), (other.name, one.name))
        return all(all(self._network.passes(*way)) for way in ways)

    def _node(self, node_id: str) -> Machine:
        return next(m for m in self._nodes.machines.values() if m.node_id == node_id)
