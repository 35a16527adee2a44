"""A real RabbitMQ for the contract, where it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from evac_lab.real.servers import RabbitMQ, missing_programs


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    if lacking := missing_programs():
        pytest.skip(f"real RabbitMQ is not installed: apt-get install {' '.join(lacking)}")
    broker = RabbitMQ()
    asyncio.run(broker.start())
    yield broker
    asyncio.run(broker.discard())
