"""Private servers: they keep their data over kill -9, and never outlive whoever started them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import httpx2
import psycopg
import pytest
from psycopg import sql

from evac_lab.real.errors import LabError
from evac_lab.real.processes import ProcessId, until
from evac_lab.real.servers import PostgreSQL, RabbitMQ, missing_programs

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    if lacking := missing_programs():
        pytest.skip(f"apt-get install {' '.join(lacking)}")


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMQ]:
    broker = RabbitMQ()
    asyncio.run(broker.start())
    yield broker
    asyncio.run(broker.discard())


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    database = PostgreSQL()
    asyncio.run(database.start())
    yield database
    asyncio.run(database.discard())


async def test_a_confirmed_message_survives_kill9_at_the_same_address(rabbitmq: RabbitMQ) -> None:
    async with await aio_pika.connect(rabbitmq.amqp_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
        message = aio_pika.Message(b"keep me", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, routing_key="kept")
        await rabbitmq.flush()
        await rabbitmq.kill9()
        assert not await rabbitmq.is_ready()

    await rabbitmq.start()

    async with await aio_pika.connect(rabbitmq.amqp_url) as connection:
        queue = await (await connection.channel()).get_queue("kept")
        message_again = await queue.get(timeout=10)
        assert message_again is not None
        assert message_again.body == b"keep me"


async def test_the_administrator_can_make_users_over_http(rabbitmq: RabbitMQ) -> None:
    async with httpx2.AsyncClient(
        base_url=rabbitmq.management_url,
        auth=(rabbitmq.user, rabbitmq.password),
    ) as client:
        made = await client.put("/api/users/compute-1", json={"password": "pw", "tags": ""})
        rights = {"configure": "", "write": "", "read": ""}
        granted = await client.put("/api/permissions/evac/compute-1", json=rights)

    assert (made.status_code, granted.status_code) == (201, 201)
    async with await aio_pika.connect(rabbitmq.amqp_url_for("compute-1", "pw")):
        pass


async def test_the_alarm_blocks_publishers_until_it_is_lifted(rabbitmq: RabbitMQ) -> None:
    async with await aio_pika.connect(rabbitmq.amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("alarmed", exclusive=True)
        await rabbitmq.set_alarm(on=True)
        try:
            publishing = asyncio.create_task(
                channel.default_exchange.publish(aio_pika.Message(b"x"), routing_key=queue.name)
            )
            await asyncio.wait([publishing], timeout=1.0)
            assert not publishing.done()
        finally:
            await rabbitmq.set_alarm(on=False)

        async with asyncio.timeout(10):
            await publishing


async def test_a_failing_ctl_command_says_why(rabbitmq: RabbitMQ) -> None:
    with pytest.raises(LabError, match="no_such_vhost"):
        await rabbitmq.ctl("delete_vhost", "no_such_vhost")


async def test_what_was_committed_survives_kill9(postgresql: PostgreSQL) -> None:
    url = await postgresql.create_database("kept")
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("CREATE TABLE fact (value int)")
        await connection.execute("INSERT INTO fact VALUES (7)")

    await postgresql.restart()

    async with await psycopg.AsyncConnection.connect(url) as connection:
        rows = await (await connection.execute("SELECT value FROM fact")).fetchall()
    assert rows == [(7,)]
    await postgresql.drop_database("kept")


async def test_a_role_needs_its_password_also_over_the_socket(postgresql: PostgreSQL) -> None:
    await postgresql.execute(sql.SQL("CREATE ROLE reader LOGIN PASSWORD 'right'") + sql.SQL(""))

    url = postgresql.url("postgres", user="reader", password="right")
    async with await psycopg.AsyncConnection.connect(url):
        pass
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        await psycopg.AsyncConnection.connect(url.replace("right", "wrong"))
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        await psycopg.AsyncConnection.connect(
            postgresql.socket_url("postgres").replace(postgresql.password, "wrong")
        )


async def test_a_copy_of_a_database_is_a_database_of_its_own(postgresql: PostgreSQL) -> None:
    async with await psycopg.AsyncConnection.connect(
        await postgresql.create_database("mould")
    ) as connection:
        await connection.execute("CREATE TABLE fact (value int)")

    url = await postgresql.create_database("cast", template="mould")

    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("INSERT INTO fact VALUES (1)")
    await postgresql.drop_database("cast")
    await postgresql.drop_database("mould")


_STARTER = """
import asyncio, os, signal, sys
from pathlib import Path
from evac_lab.real.servers import PostgreSQL, RabbitMQ

async def main():
    here = Path(sys.argv[1])
    servers = PostgreSQL(directory=here / "p"), RabbitMQ(directory=here / "r")
    await asyncio.gather(*(server.start() for server in servers))
    print(*(server.pid for server in servers), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_servers_die_with_a_starter_that_is_killed(short_folder: Path) -> None:
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _STARTER, str(short_folder)), stdout=asyncio.subprocess.PIPE
    )
    assert starter.stdout is not None
    line = await starter.stdout.readline()
    servers = [ProcessId.of(int(pid)) for pid in line.split()]
    assert len(servers) == 2
    assert all(server is not None and server.is_alive() for server in servers)

    starter.kill()
    await starter.wait()

    await until(
        lambda: not any(server is not None and server.is_alive() for server in servers),
        deadline_s=5,
        what="the servers are dead",
    )


async def test_a_process_is_not_mistaken_for_another_with_its_number() -> None:
    ours = ProcessId.of(os.getpid())
    assert ours is not None

    assert ProcessId.parse(str(ours)).is_alive()
    assert not ProcessId(pid=ours.pid, started_ticks=ours.started_ticks + 1).is_alive()
