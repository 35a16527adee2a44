"""The monitor's records under its own role: every change is a compare-and-set, whoever races.

Each test runs on SQLite and PostgreSQL, so it also shows that the monitor's grants suffice.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from evac_common.messages.reports import DomainSeen, Registered, SessionApplied
from evac_common.model.states import NodeState, Trouble
from evac_monitor.adapters.store import StoreRecords
from evac_monitor.core.fencing import AttemptState, Resume
from evac_monitor.core.gate import OnIsolated
from evac_monitor.core.states import On
from evac_monitor.core.wishes import Refuse
from evac_monitor.ports import ClusterWish, NodeRow, NodeWish
from tests.contract.store.database import Database, an_id

UUID = "00112233-4455-6677-8899-aabbccddeeff"
RACERS = 6


class Bench:
    """Several monitors on one database, with nodes that are up."""

    def __init__(self, database: Database) -> None:
        self.database = database
        store = database.store("monitor")
        self.racers = [StoreRecords(store, monitor=f"m{number}") for number in range(RACERS)]
        self.records = self.racers[0]

    async def up(self, *numbers: int) -> None:
        for number in numbers:
            self.database.sql(
                "INSERT INTO node_spec (id, name, vcpus, memory_mib, labels, bridges, power,"
                " generation, created_at, updated_at)"
                f" VALUES ('{an_id(number)}', 'n{number}', 8, 4096, '{{}}', '[]',"
                ' \'{"kind": "ipmi", "address": "b", "port": 623}\', 1,'
                " '2026-01-01 00:00:00', '2026-01-01 00:00:00')"
            )
        await self.records.prepare()
        await self.records.adopt()
        for number in numbers:
            await self.register(number, 1)
            await self.records.session_applied(
                SessionApplied(node_id=an_id(number), incarnation=1, term=1)
            )

    async def register(self, number: int, incarnation: int, *domains: DomainSeen) -> bool:
        handled = await self.records.register(
            Registered(
                node_id=an_id(number),
                incarnation=incarnation,
                boot_id=f"boot {incarnation}",
                dmi_uuid=UUID,
                hostname=f"n{number}",
                daemon_version="0",
                hypervisor="none",
                vcpus=8,
                memory_mib=4096,
                inventory=list(domains),
            )
        )
        return handled.changed

    async def node(self, number: int) -> NodeRow:
        snapshot = await self.records.snapshot(window_s=3600)
        return next(node for node in snapshot.nodes if node.node_id == an_id(number))

    async def silent(self, number: int) -> NodeRow:
        assert await self.records.change(
            await self.node(number), On.SILENT, "silent", silent_s=8, heard_at=None
        )
        return await self.node(number)

    async def fencing(self, number: int) -> NodeRow:
        node = await self.silent(number)
        flags = (await self.records.snapshot(window_s=3600)).flags
        assert await self.records.begin_fencing(node, flags, [], "silent for too long")
        return await self.node(number)

    async def recover(self) -> None:
        """The operator says that a backup was restored: term 2."""
        wish = ClusterWish(
            wish_id=an_id(99), verb="restored", arguments={}, actor="op", reason="Monday's"
        )
        assert await self.records.carry_out(wish)

    def count(self, event: str) -> int:
        return int(self.database.value(f"SELECT count(*) FROM event WHERE name = '{event}'"))


@pytest.fixture
def bench(database: Database) -> Bench:
    return Bench(database)


async def test_a_node_comes_up_and_its_facts_are_kept(bench: Bench) -> None:
    await bench.up(1)

    node = await bench.node(1)

    assert (node.state, node.term, node.incarnation) == (NodeState.UP, 1, 1)
    assert node.dmi_uuid == UUID
    assert node.power is not None
    assert bench.count("node.up") == 1


async def test_of_many_monitors_one_suspects(bench: Bench) -> None:
    await bench.up(1)
    node = await bench.node(1)

    won = await asyncio.gather(
        *(racer.change(node, On.SILENT, "", silent_s=8, heard_at=None) for racer in bench.racers)
    )

    assert sorted(won) == [False] * (RACERS - 1) + [True]
    assert bench.count("node.suspect") == 1


async def test_of_many_monitors_one_begins_to_fence(bench: Bench) -> None:
    await bench.up(1)
    node = await bench.silent(1)
    flags = (await bench.records.snapshot(window_s=3600)).flags

    won = await asyncio.gather(
        *(racer.begin_fencing(node, flags, [], "late") for racer in bench.racers)
    )

    assert won.count(True) == 1
    assert bench.count("node.fencing") == 1
    assert bench.database.value("SELECT count(*) FROM fence_attempt") == 1


async def test_two_nodes_are_not_fenced_on_one_look_at_the_rate(bench: Bench) -> None:
    await bench.up(1, 2)
    first, second = await bench.silent(1), await bench.silent(2)
    flags = (await bench.records.snapshot(window_s=3600)).flags

    won = await asyncio.gather(
        bench.racers[0].begin_fencing(first, flags, [], "late"),
        bench.racers[1].begin_fencing(second, flags, [], "late"),
    )

    assert sorted(won) == [False, True]
    assert bench.count("node.fencing") == 1


async def test_a_decision_on_an_old_look_changes_nothing(bench: Bench) -> None:
    await bench.up(1)
    old = await bench.silent(1)
    assert await bench.records.change(old, On.HEARD, "", silent_s=0, heard_at=None)
    await bench.silent(1)
    flags = (await bench.records.snapshot(window_s=3600)).flags

    assert not await bench.records.begin_fencing(old, flags, [], "late")
    assert (await bench.node(1)).state is NodeState.SUSPECT
    assert (await bench.records.snapshot(window_s=3600)).flags.last_fencing_at is None


async def test_a_storm_or_a_disarm_that_came_meanwhile_stops_the_decision(bench: Bench) -> None:
    await bench.up(1)
    node = await bench.silent(1)
    flags = (await bench.records.snapshot(window_s=3600)).flags

    assert await bench.records.declare_storm("half is gone", ["n1"])
    assert not await bench.records.declare_storm("half is gone", ["n1"])
    assert not await bench.records.begin_fencing(node, flags, [], "late")

    bench.database.sql(
        "UPDATE cluster_flags SET storm = FALSE, disarmed_until = '2026-01-01 13:00:00+00:00'"
        if bench.database.dialect == "postgresql"
        else "UPDATE cluster_flags SET storm = 0, disarmed_until = '2026-01-01 13:00:00.000000'"
    )
    assert not await bench.records.begin_fencing(node, flags, [], "late")
    assert bench.count("node.fencing") == 0


async def prove(racer: StoreRecords, node: NodeRow, attempt_id: str) -> bool:
    evidence: dict[str, Any] = {"address": "b:623", "readings": []}
    return await racer.prove_off(node, attempt_id, evidence)


async def test_of_many_proofs_one_is_written_with_its_event(bench: Bench) -> None:
    await bench.up(1)
    node = await bench.fencing(1)
    (doomed,) = await bench.records.doomed()
    (attempt,) = doomed.attempts

    won = await asyncio.gather(*(prove(racer, node, attempt.attempt_id) for racer in bench.racers))

    assert won.count(True) == 1
    assert bench.count("node.down") == 1
    assert bench.database.value("SELECT count(*) FROM proof_node") == 1
    assert (await bench.node(1)).state is NodeState.FENCED


async def test_a_proof_for_an_incarnation_that_came_back_meanwhile_is_not_written(
    bench: Bench,
) -> None:
    await bench.up(1)
    node = await bench.fencing(1)
    (doomed,) = await bench.records.doomed()

    assert await bench.register(1, 2)

    assert not await prove(bench.records, node, doomed.attempts[0].attempt_id)
    assert (await bench.node(1)).state is NodeState.JOINING
    assert bench.count("node.down") == 0
    assert bench.database.value("SELECT state FROM fence_attempt") == "abandoned"
    assert bench.database.value("SELECT kind FROM proof_node") == "incarnation"


async def test_registration_and_proof_at_once_leave_one_truth(bench: Bench) -> None:
    await bench.up(1)
    node = await bench.fencing(1)
    (doomed,) = await bench.records.doomed()

    await asyncio.gather(
        prove(bench.racers[1], node, doomed.attempts[0].attempt_id), bench.register(1, 2)
    )

    if (await bench.node(1)).state is not NodeState.JOINING:
        assert await bench.register(1, 2)  # it lost the race and registers again, as nodes do
    assert (await bench.node(1)).state is NodeState.JOINING
    assert bench.database.value("SELECT count(*) FROM proof_node WHERE incarnation = 1") == 1
    assert bench.count("node.down") + bench.count("node.rebooted") == 1


async def test_of_many_monitors_one_takes_over_a_try(bench: Bench) -> None:
    await bench.up(1)
    node = await bench.fencing(1)
    looks = [(await racer.doomed())[0] for racer in bench.racers]
    attempt_id = looks[0].attempts[0].attempt_id
    step = Resume(attempt_id=attempt_id, number=1)
    bench.database.clock.seconds += 60

    taken = await asyncio.gather(
        *(
            racer.begin_try(node, step, look.attempts, only_read=False)
            for racer, look in zip(bench.racers[1:], looks[1:], strict=True)
        )
    )

    ids = [attempt for attempt in taken if attempt is not None]
    # Each looked before anybody took it; whoever is second finds another holder than it saw.
    assert ids == [attempt_id]
    assert not await bench.records.end_try(attempt_id, AttemptState.FAILED, "late")


@pytest.mark.parametrize("jump_s", [60, 0, -3600])
async def test_what_was_read_before_the_database_went_back_proves_nothing(
    bench: Bench, jump_s: int
) -> None:
    await bench.up(1)
    node = await bench.fencing(1)
    (doomed,) = await bench.records.doomed()
    assert not doomed.only_read
    attempt_id = doomed.attempts[0].attempt_id
    bench.database.clock.seconds += jump_s  # or it is another monitor that notices
    await bench.recover()

    assert not await prove(bench.records, node, attempt_id)
    again = Resume(attempt_id=attempt_id, number=1)
    known = doomed.attempts
    assert await bench.records.begin_try(node, again, known, only_read=False) is None
    assert (await bench.records.doomed())[0].only_read
    assert await bench.racers[1].begin_try(node, again, known, only_read=True) == attempt_id

    assert not await prove(bench.records, node, attempt_id)  # it is not the one that reads now
    assert await prove(bench.racers[1], node, attempt_id)
    assert bench.database.value("SELECT down_term FROM node_state") == 2


async def test_what_is_decided_while_recovering_may_be_carried_out(bench: Bench) -> None:
    await bench.up(1, 2)
    before = await bench.fencing(1)
    assert await bench.records.block(before, "no answer")
    await bench.recover()
    wish = NodeWish(
        wish_id=an_id(77), node_id=an_id(2), verb="fence", actor="alice", reason="smoke"
    )
    assert await bench.records.begin_fencing_for(await bench.silent(2), wish)
    assert await bench.records.block(await bench.node(2), "no answer")

    only_read = {each.node.node_id: each.only_read for each in await bench.records.doomed()}

    assert only_read == {an_id(1): True, an_id(2): False}


async def test_blocked_is_said_by_one_and_again_after_its_time(bench: Bench) -> None:
    await bench.up(1)
    node = await bench.fencing(1)
    won = await asyncio.gather(*(racer.block(node, "no answer") for racer in bench.racers))
    assert won.count(True) == 1
    node = await bench.node(1)

    assert not await bench.records.alarm_blocked(node, every_s=300)
    bench.database.clock.seconds += 300
    said = await asyncio.gather(*(racer.alarm_blocked(node, every_s=300) for racer in bench.racers))

    assert said.count(True) == 1
    assert bench.count("node.blocked") == 2


async def test_a_wish_is_answered_once(bench: Bench) -> None:
    await bench.up(1)
    wish = NodeWish(
        wish_id=an_id(77), node_id=an_id(1), verb="fence", actor="alice", reason="smoke"
    )

    won = await asyncio.gather(*(racer.answer(wish, Refuse(why="no")) for racer in bench.racers))

    assert won.count(True) == 1


async def test_a_cluster_wish_is_carried_out_once(bench: Bench) -> None:
    await bench.up(1)
    wish = ClusterWish(
        wish_id=an_id(78), verb="disarm", arguments={"for_s": 60}, actor="alice", reason="switch"
    )

    won = await asyncio.gather(*(racer.carry_out(wish) for racer in bench.racers))

    assert won.count(True) == 1
    assert bench.count("cluster.disarmed") == 1


async def test_many_monitors_adopt_a_node_once(bench: Bench) -> None:
    await bench.up()
    await bench.up(5)
    made = await asyncio.gather(*(racer.adopt() for racer in bench.racers))

    assert all(count == (0, 0) for count in made)
    assert (await bench.node(5)).state is NodeState.UP


async def test_a_new_term_is_given_once_when_the_database_is_another(bench: Bench) -> None:
    await bench.up(1)
    if bench.database.dialect == "postgresql":
        identity = str(bench.database.value("SELECT database_identity FROM cluster_flags"))
        system, timeline, database, ledger = (int(part) for part in identity.split("/"))
        assert timeline == 1
        assert min(system, database, ledger) > 0
        bench.database.sql(f"UPDATE cluster_flags SET database_identity = '{system}/1'")
        assert not await bench.records.prepare(), "an older version knew less of the same database"
        bench.database.sql("UPDATE cluster_flags SET database_identity = 'another/1/2/3'")
        rose = await asyncio.gather(*(racer.prepare() for racer in bench.racers))
        assert rose.count(True) == 1
        assert (await bench.records.snapshot(window_s=1)).flags.term == 2
    assert not await bench.records.prepare()


async def test_the_probe_writes_and_changes_nothing(bench: Bench) -> None:
    await bench.up(1)
    before = (await bench.records.snapshot(window_s=1)).flags

    await bench.records.probe()

    assert (await bench.records.snapshot(window_s=1)).flags == before


async def test_the_ledger_is_read_for_a_session(bench: Bench) -> None:
    await bench.up(1)
    async with bench.database.store("scheduler").transaction() as tx:
        await tx.execute(
            text(
                "INSERT INTO ownership (instance_id, epoch, node_id, term, incarnation, run,"
                " created_at) VALUES (:id, 1, :node, 1, 1, 1, '2026-01-01 00:00:00')"
            ),
            {"id": an_id(50), "node": an_id(1)},
        )

    assert await bench.register(1, 1, DomainSeen(instance_id=an_id(50), epoch=1, running=True))

    assert bench.database.value("SELECT count(*) FROM outbox WHERE exchange = 'evac.command'") == 2


async def test_a_node_that_somebody_heard_meanwhile_is_not_cut_off(bench: Bench) -> None:
    await bench.up(1)
    node = await bench.silent(1)
    flags = (await bench.records.snapshot(window_s=3600)).flags
    heard_at = datetime(2026, 1, 1, 11, tzinfo=UTC)

    await bench.racers[1].note_heard({node.node_id: heard_at})

    assert not await bench.records.begin_fencing(node, flags, [], "late")
    again = await bench.node(1)
    assert (again.state, again.heard_at) == (NodeState.SUSPECT, heard_at)
    assert (await bench.records.snapshot(window_s=3600)).flags.last_fencing_at is None
    assert await bench.records.begin_fencing(again, flags, [], "late")


async def test_troubles_are_kept_said_and_cleared(bench: Bench) -> None:
    await bench.up(1)
    wrong = {Trouble.LIBVIRT: "no answer"}

    assert await bench.records.change(
        await bench.node(1), On.TROUBLED, "", silent_s=0, heard_at=None, troubles=wrong
    )
    node = await bench.node(1)
    assert node.state is NodeState.DEGRADED
    assert node.troubles == ({"reason": "libvirt", "why": "no answer"},)

    assert await bench.records.change(node, On.RECOVERED, "", silent_s=0, heard_at=None)
    node = await bench.node(1)
    assert (node.state, node.troubles) == (NodeState.UP, ())
    assert (bench.count("node.degraded"), bench.count("node.recovered")) == (1, 1)


async def test_of_many_monitors_one_marks_a_node_isolated(bench: Bench) -> None:
    await bench.up(1)
    node = await bench.silent(1)

    won = await asyncio.gather(
        *(racer.mark_isolated(node, True, "it writes", OnIsolated.FENCE) for racer in bench.racers)
    )

    assert won.count(True) == 1
    marked = await bench.node(1)
    assert (marked.isolated, marked.generation) == (True, node.generation)
    assert bench.count("node.isolated") == 1


async def test_a_node_found_without_power_is_cut_off_in_a_storm_and_not_counted(
    bench: Bench,
) -> None:
    await bench.up(1, 2)
    dead, other = await bench.silent(1), await bench.silent(2)
    assert await bench.records.declare_storm("half is gone", ["n1", "n2"])
    flags = (await bench.records.snapshot(window_s=3600)).flags

    assert not await bench.records.begin_fencing(other, flags, [], "late")
    assert await bench.records.begin_fencing(dead, flags, [], "late", found_off=True)
    node = await bench.node(1)
    assert node.found_off
    (doomed,) = await bench.records.doomed()
    assert await prove(bench.records, node, doomed.attempts[0].attempt_id)
    assert (await bench.node(1)).found_off
    assert (await bench.records.snapshot(window_s=3600)).powered_off == {}


@pytest.mark.parametrize(
    ("change", "open_"),
    [
        ("", 1),
        ("UPDATE command SET incarnation = 7", 0),
        ("UPDATE command SET next_at = '2025-12-31 00:00:00'", 0),
        ("UPDATE node_state SET state = 'suspect'", 0),
        ("UPDATE node_state SET isolated = TRUE", 0),
    ],
)
async def test_what_is_unanswered_is_what_the_scheduler_still_sends_to_a_session(
    bench: Bench, change: str, open_: int
) -> None:
    await bench.up(1)
    body = "''" if bench.database.dialect == "postgresql" else "x''"
    bench.database.sql(
        "INSERT INTO command (id, node_id, instance_id, verb, epoch, run, term, incarnation,"
        f" headers, body, sent, next_at, created_at) VALUES ('{an_id(9)}', '{an_id(1)}',"
        f" '{an_id(8)}', 'stop', 1, 0, 1, 1, '{{}}', {body}, 1, '2099-01-01 00:00:00',"
        " '2026-01-01 00:00:00')",
        *([change] if change else []),
    )

    assert len(await bench.records.unanswered()) == open_


async def test_of_many_monitors_one_says_that_a_disarm_lasts_and_one_that_it_ended(
    bench: Bench,
) -> None:
    await bench.up(1)
    bench.database.sql("UPDATE cluster_flags SET disarmed_until = '2099-01-01 00:00:00.000000'")

    said = await asyncio.gather(*(r.remind_disarmed(every_s=300) for r in bench.racers))
    assert len([each for each in said if each]) == 1
    assert await bench.records.remind_disarmed(every_s=300) == ""
    assert bench.count("cluster.still_disarmed") == 1

    bench.database.sql("UPDATE cluster_flags SET disarmed_until = '2025-01-01 00:00:00.000000'")
    said = await asyncio.gather(*(r.remind_disarmed(every_s=300) for r in bench.racers))
    assert len([each for each in said if each]) == 1
    assert bench.count("cluster.armed") == 1
    assert (await bench.records.snapshot(window_s=3600)).flags.disarmed_until is None
