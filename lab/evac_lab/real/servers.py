"""Private RabbitMQ and PostgreSQL servers for tests and for the lab.

Both come from Debian's packages, run on loopback (or in a network namespace) on free ports, keep
their data in a folder of their own, and die with the process that started them, even if that is
killed -9. No system service is touched, and no root is needed.

    lacking = missing_programs()                 # () or apt packages to install
    async with RabbitMQ.running() as broker:     # about 4 s until ready
        broker.amqp_url                          # amqp://admin:...@127.0.0.1:PORT/evac
        broker.management_url                    # http://127.0.0.1:PORT; broker.user, .password
        await broker.kill9()                     # no goodbye; then, on the same data and ports:
        await broker.start()
    async with PostgreSQL.running() as database:             # about 1 s until ready
        url = await database.create_database("contract_1")   # postgresql://postgres:...
        await database.drop_database("contract_1")

A pytest fixture for the whole run, since neither is bound to an event loop:

    @pytest.fixture(scope="session")
    def rabbitmq() -> Iterator[RabbitMQ]:
        if lacking := missing_programs():
            pytest.skip(f"real RabbitMQ is not installed: apt-get install {' '.join(lacking)}")
        broker = RabbitMQ()
        asyncio.run(broker.start())
        yield broker
        asyncio.run(broker.discard())
"""

from __future__ import annotations

from evac_lab.real import packages
from evac_lab.real.postgresql import PostgreSQL
from evac_lab.real.rabbitmq import RabbitMQ, RabbitPorts

__all__ = ["PostgreSQL", "RabbitMQ", "RabbitPorts", "missing_programs"]


def missing_programs() -> tuple[str, ...]:
    """Apt packages that the servers need and this machine lacks; empty when all is here."""
    return packages.missing_packages((packages.SERVERS,))
