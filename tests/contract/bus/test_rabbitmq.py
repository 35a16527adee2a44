"""The RabbitMQ bus keeps the contract, on a real broker."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest

from evac_common.bus.admin import ManagementAdmin
from evac_common.bus.port import Bus
from evac_common.bus.rabbitmq import RabbitBus
from evac_common.bus.timings import BusTimings
from evac_common.model.identity import node_of_user
from evac_common.service.clock import SystemClock
from evac_lab.real.servers import RabbitMQ
from tests.contract.bus.cable import Cable
from tests.contract.bus.contract import BusContract
from tests.contract.bus.world import DEADLINE_S, World

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

_numbers = itertools.count(1)


class _NodesKept(ManagementAdmin):
    """Remembers the secrets it made, as the enrolled node would."""

    def __init__(self, admin: ManagementAdmin, secrets: dict[str, str]) -> None:
        super().__init__(admin._client, vhost=admin._vhost)
        self._secrets = secrets

    async def create_node_user(self, node_id: str) -> str:
        secret = await super().create_node_user(node_id)
        self._secrets[f"compute-{node_id}"] = secret
        return secret

    async def quorum_queues(self) -> AsyncIterator[bytes]:
        answer = await self._client.get(f"/api/queues/{self._vhost}?columns=name,type")
        for queue in answer.raise_for_status().json():
            if queue["type"] == "quorum":
                yield f"{self._vhost}_{queue['name']}".encode()


class RabbitWorld:
    timings = BusTimings(
        call_limit_s=3.0,
        backoff_min_s=0.05,
        backoff_max_s=0.3,
        canary_every_s=0.2,
        canary_limit_s=4.0,
        consumers_check_s=0.5,
        retry_min_s=0.02,
        retry_max_s=0.1,
    )

    def __init__(
        self, broker: RabbitMQ, admin: ManagementAdmin, vhost: str, secrets: dict[str, str]
    ) -> None:
        self._broker, self._vhost, self._secrets = broker, vhost, secrets
        self.admin = _NodesKept(admin, secrets)
        self.cables: dict[str, Cable] = {}

    def bus(self, user: str, *, claims: str | None = "", careful: bool = False) -> Bus:
        secret = quote(self._secrets.get(user, "nobody"), safe="")
        port = self.cables[user].port if user in self.cables else self._broker.ports.amqp
        url = f"amqp://{user}:{secret}@127.0.0.1:{port}/{self._vhost}"
        return RabbitBus(
            url, clock=SystemClock(), timings=self.timings, claims=claims, careful=careful
        )

    async def kill(self) -> None:
        """Not before the broker has all quorum queues on its list on disk.

        It writes that list 0.5 s after a queue is made. Killed earlier, RabbitMQ 3.10 comes back
        with a queue that has no leader for a minute, and no client can do anything about it.
        """
        names = [name async for name in self.admin.quorum_queues()]
        async with asyncio.timeout(DEADLINE_S):
            while not all(name in self._queues_on_disk() for name in names):
                await asyncio.sleep(0.05)
        await self._broker.kill9()

    def _queues_on_disk(self) -> bytes:
        (names,) = (self._broker.directory / "data").glob("*/quorum/*/names.dets")
        return names.read_bytes()

    async def restart(self) -> None:
        await self._broker.start()

    def cut(self, user: str) -> None:
        self.cables[user].cut()

    def heal(self, user: str) -> None:
        self.cables[user].heal()

    async def alarm(self, *, on: bool) -> None:
        await self._broker.set_alarm(on=on)


@pytest.fixture
async def world(rabbitmq: RabbitMQ) -> AsyncIterator[World]:
    if not rabbitmq.is_running():
        await rabbitmq.start()
    vhost = f"contract-{next(_numbers)}"
    admin = ManagementAdmin.connect(
        rabbitmq.management_url, user=rabbitmq.user, password=rabbitmq.password, vhost=vhost
    )
    secrets = dict(await admin.setup_controllers())
    world = RabbitWorld(rabbitmq, admin, vhost, secrets)
    for user in list(secrets):
        assert node_of_user(user) is None
        world.cables[user] = Cable("127.0.0.1", rabbitmq.ports.amqp)
        await world.cables[user].open()
    yield world
    for cable in world.cables.values():
        await cable.close()
    await admin.aclose()


class TestRabbitMQ(BusContract):
    pass
