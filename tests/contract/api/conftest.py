from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from evac_common.store.roles import ROLES
from evac_common.store.urls import blocking_url
from tests.contract.store.conftest import postgresql_address, server, template
from tests.contract.store.database import PASSWORD
from tests.unit.api.cluster import Cluster, open_cluster

__all__ = ["postgresql_address", "server", "template"]


@pytest.fixture
async def cluster(postgresql_address: str) -> AsyncIterator[Cluster]:
    """The api under its own role; what the others would write, the tables' owner writes."""
    url = blocking_url(postgresql_address).set(username=ROLES["api"], password=PASSWORD)
    async with open_cluster(
        url.render_as_string(hide_password=False), postgresql_address
    ) as opened:
        yield opened
