"""A scheduler on a real SQLite database, with nodes that answer when the test says so.

The rows of api and monitor are written by the test; commands are taken from the scheduler's own
outbox, and reports are given to its handlers, so that loss, repetition and order are the test's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, Select, Table, delete, insert, select, update

from evac_common.bus.port import Verdict
from evac_common.messages import codec, commands, reports
from evac_common.messages.codec import Envelope
from evac_common.model.identity import Gen
from evac_common.model.states import NodeState, PoolKind, ProofKind, RunStrategy
from evac_common.service.clock import Clock
from evac_common.service.periodic import Wake
from evac_common.store import intent, nodes, outbox, placement
from evac_common.store.engine import Connect, Store
from evac_scheduler.adapters.store import SqlDatabase
from evac_scheduler.core.policy import Policy
from evac_scheduler.handlers.reports import Reports
from evac_scheduler.loops.reconciler import Reconciler

TERM = 1


@dataclass
class ManualClock:
    """Time moves when the test moves it; ids count."""

    at_s: float = 0.0
    ids: int = 0

    def monotonic(self) -> float:
        return self.at_s

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.at_s)

    def new_id(self) -> str:
        self.ids += 1
        return f"{self.ids:032x}"

    def jitter(self) -> float:
        return 0.5


@dataclass
class Replica:
    """One scheduler: its loops and its handlers, on its own connection."""

    store: Store
    clock: Clock
    policy: Policy
    wake: Wake = field(default_factory=Wake)

    def __post_init__(self) -> None:
        database = SqlDatabase(self.store)
        self.reconciler = Reconciler(database, self.clock, self.policy)
        self.reports = Reports(database, self.policy, self.wake)

    async def sweep(self) -> None:
        await self.reconciler.step()


def id_of(name: str) -> str:
    return name.encode().hex().zfill(32)


class Cluster:
    """`url` is a migrated database; `role_url` opens it as the scheduler's own role does."""

    def __init__(
        self,
        url: str,
        policy: Policy | None = None,
        *,
        role_url: str | None = None,
        clock: Clock | None = None,
        connect: Connect | None = None,
    ) -> None:
        self.hand = ManualClock()
        self.clock: Clock = clock or self.hand
        self.url, self._role_url, self._connect = url, role_url or url, connect
        self.policy = policy or Policy()
        self.store = Store.open(url, service="test", clock=self.clock, connect=connect)
        self._stores = [self.store]
        self.scheduler = self.replica()
        self._read_to = 0
        self.incarnations: dict[str, int] = {}

    def replica(self) -> Replica:
        store = Store.open(
            self._role_url, service="scheduler", clock=self.clock, connect=self._connect
        )
        self._stores.append(store)
        return Replica(store, self.clock, self.policy)

    async def close(self) -> None:
        for store in self._stores:
            await store.close()

    # what api and monitor write

    async def node(self, name: str, *, vcpus: int = 64, memory_mib: int = 65536) -> None:
        now = self.clock.now()
        self.incarnations[name] = 1
        await self._insert(
            intent.node_spec,
            id=id_of(name),
            name=name,
            vcpus=vcpus,
            memory_mib=memory_mib,
            labels={},
            bridges=["br0"],
            generation=1,
            created_at=now,
            updated_at=now,
        )
        await self._insert(
            nodes.node_state,
            node_id=id_of(name),
            state=NodeState.UP.value,
            term=TERM,
            incarnation=1,
            generation=1,
            reason="",
            since=now,
            decision=[],
        )

    async def node_is(
        self, name: str, state: NodeState, *, term: int = TERM, incarnation: int | None = None
    ) -> None:
        self.incarnations[name] = incarnation or self.incarnations[name]
        async with self.store.transaction() as tx:
            await tx.execute(
                update(nodes.node_state)
                .where(nodes.node_state.c.node_id == id_of(name))
                .values(state=state.value, term=term, incarnation=self.incarnations[name])
            )

    async def prove_dead(self, name: str) -> None:
        """What the monitor does in one transaction: proof and fenced."""
        await self._insert(
            nodes.proof_node,
            id=self.clock.new_id(),
            node_id=id_of(name),
            incarnation=self.incarnations[name],
            kind=ProofKind.POWER.value,
            evidence={},
            actor="monitor",
            created_at=self.clock.now(),
        )
        await self.node_is(name, NodeState.FENCED)

    async def recovering(self, term: int, *names: str) -> None:
        """What the monitor does when the database went back in time: these nodes are in the term.

        The others are given no session yet.
        """
        flags = nodes.cluster_flags
        async with self.store.transaction() as tx:
            await tx.execute(
                update(flags).values(
                    term=term,
                    recovering=True,
                    recovering_reason="a backup was restored",
                    recovering_since=self.clock.now(),
                )
            )
        for name in names:
            await self.node_is(name, NodeState.UP, term=term)

    async def recovered(self, term: int) -> bool:
        """What the monitor does when the scheduler has done its part. False: it has not."""
        flags, done = nodes.cluster_flags, placement.recovery
        if not await self.rows(select(done).where(done.c.term == term)):
            return False
        async with self.store.transaction() as tx:
            await tx.execute(update(flags).values(recovering=False, recovering_reason=""))
        return True

    async def pool(self, name: str, *on: str) -> None:
        now = self.clock.now()
        await self._insert(
            intent.pool,
            id=id_of(name),
            name=name,
            kind=PoolKind.DIR.value,
            source=f"/srv/{name}",
            lock_scope="none",
            nodes=[id_of(node) for node in on],
            generation=1,
            created_at=now,
            updated_at=now,
        )

    async def instance(
        self, name: str, *, memory_mib: int = 1024, priority: int = 3, pool: str | None = None
    ) -> None:
        now = self.clock.now()
        disks = [] if pool is None else [{"pool": pool}]
        await self._insert(
            intent.instance_spec,
            id=id_of(name),
            name=name,
            manifest={
                "vcpus": 1,
                "memory_mib": memory_mib,
                "priority": priority,
                "disks": disks,
                "nics": [{"bridge": "br0"}],
            },
            run_strategy=RunStrategy.ALWAYS.value,
            priority=priority,
            generation=1,
            created_at=now,
            updated_at=now,
        )

    async def declare_more(self, name: str, **fields: Any) -> None:
        spec = intent.instance_spec
        async with self.store.transaction() as tx:
            row = await tx.row(select(spec.c.manifest).where(spec.c.id == id_of(name)))
            assert row is not None
            await tx.execute(
                update(spec)
                .where(spec.c.id == id_of(name))
                .values(manifest={**row["manifest"], **fields})
            )

    async def want(self, name: str, strategy: RunStrategy, *, deleted: bool = False) -> None:
        async with self.store.transaction() as tx:
            await tx.execute(
                update(intent.instance_spec)
                .where(intent.instance_spec.c.id == id_of(name))
                .values(
                    run_strategy=strategy.value, deleted_at=self.clock.now() if deleted else None
                )
            )

    async def remove_record(self, name: str) -> None:
        async with self.store.transaction() as tx:
            await tx.execute(
                delete(intent.instance_spec).where(intent.instance_spec.c.id == id_of(name))
            )

    async def wish(self, name: str, verb: str = "evacuate") -> str:
        wish_id = self.clock.new_id()
        await self._insert(
            intent.node_wish,
            id=wish_id,
            node_id=id_of(name),
            verb=verb,
            actor="anna",
            reason="maintenance",
            operation_id=self.clock.new_id(),
            created_at=self.clock.now(),
        )
        return wish_id

    async def _insert(self, table: Table, **values: Any) -> None:
        async with self.store.transaction() as tx:
            await tx.execute(insert(table).values(**values))

    # what the nodes see and say

    async def take(self) -> list[commands.Command]:
        """Commands that were put into the outbox since the last call."""
        found = await self.rows(
            select(outbox.outbox)
            .where(
                outbox.outbox.c.sequence > self._read_to, outbox.outbox.c.exchange == "evac.command"
            )
            .order_by(outbox.outbox.c.sequence)
        )
        if found:
            self._read_to = found[-1]["sequence"]
        messages = [codec.decode(r["headers"], r["content_type"], r["body"])[1] for r in found]
        return [message for message in messages if isinstance(message, commands.Command)]

    def _session(self, command: commands.OfInstance) -> dict[str, Any]:
        return {
            "node_id": command.node_id,
            "term": command.term,
            "incarnation": command.incarnation,
            "instance_id": command.instance_id,
            "epoch": command.epoch,
        }

    def started(self, command: commands.Start) -> reports.Started:
        return reports.Started(**self._session(command), run=command.run)

    def stopped(self, command: commands.Stop) -> reports.Stopped:
        return reports.Stopped(**self._session(command))

    def failed(self, command: commands.Start, kind: reports.StartErrorKind) -> reports.StartFailed:
        return reports.StartFailed(
            **self._session(command), run=command.run, kind=kind, detail="as told"
        )

    def refused(self, command: commands.Start) -> reports.StartRefused:
        return reports.StartRefused(
            **self._session(command), kind=reports.StartErrorKind.CAPACITY, detail="full"
        )

    def inventory(
        self,
        node: str,
        sequence: int,
        *domains: reports.DomainSeen,
        exited: Sequence[reports.DomainSeen] = (),
        released: dict[str, int] | None = None,
        term: int = TERM,
    ) -> reports.Inventory:
        return reports.Inventory(
            node_id=id_of(node),
            term=term,
            incarnation=self.incarnations[node],
            sequence=sequence,
            domains=list(domains),
            exited=list(exited),
            released=released or {},
        )

    async def say(self, report: reports.Report, to: Replica | None = None) -> Verdict:
        handlers = (to or self.scheduler).reports
        envelope = Envelope(id=self.clock.new_id(), source="/test", time=self.clock.now())
        handle: Any = getattr(handlers, type(report).name)
        verdict: Verdict = await handle(envelope, report)
        return verdict

    async def answer_all(self) -> int:
        """Every node obeys every command; returns how many there were."""
        taken = await self.take()
        for command in taken:
            if isinstance(command, commands.Start):
                await self.say(self.started(command))
            elif isinstance(command, commands.Stop):
                await self.say(self.stopped(command))
        return len(taken)

    async def settle(self, sweeps: int = 20) -> None:
        """Sweep and answer until nothing is commanded any more."""
        for _ in range(sweeps):
            await self.scheduler.sweep()
            if await self.answer_all() == 0:
                return
        raise AssertionError("the scheduler does not come to rest")

    # what is written

    async def rows(self, statement: Select[Any]) -> list[RowMapping]:
        async with self.store.read() as tx:
            return await tx.rows(statement)

    async def status(self, name: str) -> RowMapping:
        (row,) = await self.rows(
            select(placement.instance_status).where(
                placement.instance_status.c.instance_id == id_of(name)
            )
        )
        return row

    async def phases(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for row in await self.rows(select(placement.instance_status)):
            counts[row["phase"]] = counts.get(row["phase"], 0) + 1
        return counts

    async def ledger(self, name: str) -> list[RowMapping]:
        return await self.rows(
            select(placement.ownership)
            .where(placement.ownership.c.instance_id == id_of(name))
            .order_by(placement.ownership.c.epoch)
        )

    async def items(self, name: str | None = None) -> list[RowMapping]:
        found = await self.rows(
            select(placement.evacuation_item).order_by(placement.evacuation_item.c.instance_id)
        )
        return [row for row in found if name is None or row["instance_id"] == id_of(name)]

    async def reservations(self) -> list[RowMapping]:
        return await self.rows(select(placement.reservation))

    async def events(self, name: str | None = None) -> list[RowMapping]:
        found = await self.rows(select(outbox.event).order_by(outbox.event.c.sequence))
        return [row for row in found if name is None or row["name"] == name]

    def gen(self, node: str) -> Gen:
        return Gen(TERM, self.incarnations[node])
