"""Puts the desk together: every port of the api on one database and one broker."""

from __future__ import annotations

from evac_api.adapters.access import StoredTokens
from evac_api.adapters.cluster import StoredCluster
from evac_api.adapters.declarations import StoredDeclarations
from evac_api.adapters.events import StoredEvents
from evac_api.adapters.instances import StoredInstances
from evac_api.adapters.nodes import StoredNodes
from evac_api.adapters.operations import StoredOperations
from evac_api.adapters.pools import StoredPools
from evac_api.ports import Desk
from evac_common.bus.admin import BrokerAdmin
from evac_common.bus.port import Bus
from evac_common.service.secrets import SecretBox
from evac_common.store.engine import Store


def open_desk(
    store: Store, bus: Bus, admin: BrokerAdmin, secrets: SecretBox | None, nodes_bus_url: str
) -> Desk:
    return Desk(
        nodes=StoredNodes(store, bus, admin, secrets, nodes_bus_url),
        declarations=StoredDeclarations(store, secrets),
        pools=StoredPools(store),
        instances=StoredInstances(store),
        operations=StoredOperations(store),
        events=StoredEvents(store),
        cluster=StoredCluster(store),
        tokens=StoredTokens(store),
    )
