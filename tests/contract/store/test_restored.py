"""An older dump is restored into a real server: it is noticed, and nothing is started twice."""

from __future__ import annotations

import subprocess
from contextlib import AsyncExitStack

import pytest
from sqlalchemy.engine import make_url

from evac_common.messages.codec import Envelope
from evac_common.messages.commands import Start
from evac_common.messages.reports import DomainSeen, Inventory, Registered, SessionApplied, Started
from evac_common.service.periodic import Wake
from evac_common.store import regress
from evac_lab.real.processes import program
from evac_lab.real.servers import PostgreSQL
from evac_monitor.adapters.store import StoreRecords
from evac_monitor.core.states import On
from evac_monitor.ports import NodeRow
from evac_scheduler.adapters.store import SqlDatabase
from evac_scheduler.core.policy import Policy
from evac_scheduler.handlers.reports import Reports
from evac_scheduler.loops.reconciler import Reconciler
from tests.contract.store.database import Database, SetClock, an_id

pytestmark = [pytest.mark.real]

VM, N1, N2, N3 = an_id(1), an_id(11), an_id(12), an_id(13)
NODES = {N1: "n1", N2: "n2", N3: "n3"}


class Site:
    """Monitor and scheduler on one database, with nodes that are played by hand."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.monitor = StoreRecords(database.store("monitor"), monitor="m1")
        self.store = database.store("scheduler")
        records = SqlDatabase(self.store)
        self.scheduler = Reconciler(records, database.clock, Policy())
        self.reports = Reports(records, Policy(), Wake())
        self.sequence = 0

    async def say(self, report: Inventory | Started) -> None:
        envelope = Envelope(id=an_id(9), source="/test", time=self.database.clock.now())
        if isinstance(report, Inventory):
            await self.reports.inventory(envelope, report)
        else:
            await self.reports.started(envelope, report)

    async def join(self, node: str, term: int, incarnation: int = 1) -> None:
        await self.monitor.register(
            Registered(
                node_id=node,
                incarnation=incarnation,
                boot_id=f"boot {incarnation}",
                term_seen=term - 1,
                dmi_uuid=node,
                hostname=NODES[node],
                daemon_version="0",
                hypervisor="none",
                vcpus=8,
                memory_mib=4096,
            )
        )
        await self.applied(node, term, incarnation)

    async def applied(self, node: str, term: int, incarnation: int = 1) -> None:
        report = SessionApplied(node_id=node, incarnation=incarnation, term=term)
        assert (await self.monitor.session_applied(report)).changed

    async def show(self, node: str, term: int, *domains: DomainSeen) -> None:
        self.sequence += 1
        await self.say(
            Inventory(
                node_id=node,
                incarnation=1,
                term=term,
                sequence=self.sequence,
                domains=list(domains),
            )
        )

    async def started(self, node: str, epoch: int) -> None:
        await self.say(
            Started(node_id=node, incarnation=1, term=1, instance_id=VM, epoch=epoch, run=1)
        )

    async def node(self, node: str) -> NodeRow:
        snapshot = await self.monitor.snapshot(window_s=3600)
        return next(row for row in snapshot.nodes if row.node_id == node)

    def starts(self) -> int:
        """Starts that were ever put into the outbox."""
        ending = f".{Start.name}"
        said = f"SELECT count(*) FROM outbox WHERE right(routing_key, {len(ending)}) = '{ending}'"
        return int(self.database.value(said))

    def ledger(self) -> list[tuple[int, str]]:
        with self.database.owner() as connection:
            found = connection.exec_driver_sql("SELECT epoch, node_id FROM ownership ORDER BY 1")
            return [(row[0], row[1]) for row in found]


@pytest.fixture
def dump(postgresql_address: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("dump") / "evac.dump")


def _run(tool: str, url: str, *arguments: str) -> None:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    command = [program(f"/usr/lib/postgresql/*/bin/{tool}"), *arguments, "--dbname", plain]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


async def _begin(site: Site) -> str:
    """web runs on n1. Returns who owns it."""
    at = "'2026-01-01 00:00:00+00:00'"
    for node, name in NODES.items():
        site.database.sql(
            "INSERT INTO node_spec (id, name, vcpus, memory_mib, labels, bridges, power,"
            f" generation, created_at, updated_at) VALUES ('{node}', '{name}', 8, 4096, '{{}}',"
            f" '[]', NULL, 1, {at}, {at})"
        )
    await site.monitor.prepare()
    await site.monitor.adopt()
    await site.join(N1, 1)
    site.database.sql(
        "INSERT INTO instance_spec (id, name, manifest, run_strategy, priority, generation,"
        f" created_at, updated_at) VALUES ('{VM}', 'web', '{{\"vcpus\": 1, \"memory_mib\": 64}}',"
        f" 'Always', 3, 1, {at}, {at})"
    )
    await site.scheduler.step()
    await site.started(N1, 1)
    await site.join(N2, 1)
    await site.join(N3, 1)
    return N1


async def _evacuate(site: Site) -> str:
    """n1 dies, and web runs elsewhere. Returns where."""
    await site.monitor.change(await site.node(N1), On.SILENT, "", silent_s=8, heard_at=None)
    site.database.sql(
        "INSERT INTO proof_node (id, node_id, incarnation, kind, evidence, actor, created_at)"
        f" VALUES ('{an_id(70)}', '{N1}', 1, 'power', '{{}}', 'm', now())",
        f"UPDATE node_state SET state = 'fenced' WHERE node_id = '{N1}'",
    )
    await site.scheduler.step()
    epoch, owner = site.ledger()[-1]
    assert epoch == 2
    await site.started(owner, 2)
    return owner


async def test_after_an_older_dump_was_restored_nothing_runs_twice(
    postgresql_address: str, server: PostgreSQL, dump: str, clock: SetClock
) -> None:
    async with AsyncExitStack() as stack:
        site = Site(Database(postgresql_address, clock, stack))
        await _begin(site)
        _run("pg_dump", postgresql_address, "--format=custom", "--file", dump)
        owner = await _evacuate(site)
    other = N3 if owner == N2 else N2

    name = make_url(postgresql_address).database
    await server.drop_database(str(name))
    await server.create_database(str(name))
    _run("pg_restore", postgresql_address, "--exit-on-error", dump)

    async with AsyncExitStack() as stack:
        site = Site(Database(postgresql_address, clock, stack))
        assert site.ledger() == [(1, N1)], "the evacuation is forgotten"
        before = site.starts()
        # The scheduler is first: it looks for itself and does not wait for the monitor's flag.
        site.database.sql(
            "INSERT INTO proof_node (id, node_id, incarnation, kind, evidence, actor, created_at)"
            f" VALUES ('{an_id(71)}', '{N1}', 1, 'operator', '{{}}', 'm', now())"
        )
        await site.scheduler.step()
        assert site.starts() == before
        assert site.ledger() == [(1, N1)]

        assert await site.monitor.prepare()
        assert (await site.monitor.snapshot(window_s=1)).flags.recovering
        site.database.sql(
            f"UPDATE node_state SET state = 'fenced', down_term = 2 WHERE node_id = '{N1}'"
        )
        for node in (other, owner):
            assert await site.monitor.session_anew(await site.node(node))
            await site.applied(node, 2)
        await site.show(other, 2)
        await site.scheduler.step()
        assert await site.monitor.finish_recovery() == "", "one node was not heard yet"
        copy = DomainSeen(instance_id=VM, epoch=2, run=1, running=True)
        await site.show(owner, 2, copy)
        await site.scheduler.step()
        assert "adopted 1" in await site.monitor.finish_recovery()

        for _ in range(3):
            await site.show(owner, 2, copy)
            await site.show(other, 2)
            await site.scheduler.step()
        assert site.ledger() == [(1, N1), (2, owner)]
        assert site.starts() == before
        assert not await site.monitor.prepare()


async def test_what_the_identity_tells_and_what_it_does_not(
    postgresql: Database, server: PostgreSQL, clock: SetClock
) -> None:
    store = postgresql.store("monitor")
    async with store.read() as tx:
        first, place = await regress.identity(tx), await regress.position(tx)
    postgresql.sql("ANALYZE", "ALTER TABLE ownership ADD COLUMN more integer")
    async with store.read() as tx:
        assert await regress.identity(tx) == first, "ordinary work is no restore"
        assert (await regress.position(tx) or 0) >= (place or 0)
    assert regress.difference(str(first), first) == ""
    assert "ledger" in regress.difference(str(first), f"{first}0")
    assert "timeline" in regress.difference("1/1/2/3", "1/2/2/3")
    assert regress.difference("-/1/2/3", "9/1/2/3") == "", "a role that may not look says nothing"
