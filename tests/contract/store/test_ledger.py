"""The database refuses an unproven owner, whoever asks: raw SQL, as the tables' owner."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from evac_common.errors import Conflict, LedgerRefused, UnprovenAssignment
from evac_common.store.engine import Store
from tests.contract.store.database import Database, an_id
from tests.contract.store.ledger import N1, N2, N3, OTHER_VM, dead, owner, released

P1, P2, P3 = an_id(101), an_id(102), an_id(103)


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    given: tuple[str, ...] = ()
    then: str  # the statement under test
    refused: str | None = None  # how the refusal begins; None: accepted


CASES = (
    Case(name="the first owner needs no proof", then=owner(1, N1)),
    Case(
        name="a node proof of the previous owner",
        given=(owner(1, N1, 3), dead(N1, 3, proof=P1)),
        then=owner(2, N2, node_proof=P1),
    ),
    Case(
        name="a proof covers lower incarnations",
        given=(owner(1, N1, 3), dead(N1, 7, proof=P1)),
        then=owner(2, N2, node_proof=P1),
    ),
    Case(
        name="back to the same node, in a later incarnation",
        given=(owner(1, N1, 3), dead(N1, 3, proof=P1)),
        then=owner(2, N1, 4, node_proof=P1),
    ),
    Case(
        name="a release of the previous epoch",
        given=(owner(1, N1), released(1, N1, proof=P1)),
        then=owner(2, N2, release=P1),
    ),
    Case(
        name="a release lets the same incarnation own it again",
        given=(owner(1, N1), released(1, N1, proof=P1)),
        then=owner(2, N1, release=P1),
    ),
    Case(
        name="no proof at all",
        given=(owner(1, N1),),
        then=owner(2, N2),
        refused="evac: unproven",
    ),
    Case(
        name="not even to the same node",
        given=(owner(1, N1),),
        then=owner(2, N1),
        refused="evac: unproven",
    ),
    Case(
        name="proof of another node",
        given=(owner(1, N1), dead(N3, 9, proof=P1)),
        then=owner(2, N2, node_proof=P1),
        refused="evac: unproven",
    ),
    Case(
        name="proof of a lower incarnation",
        given=(owner(1, N1, 3), dead(N1, 2, proof=P1)),
        then=owner(2, N2, node_proof=P1),
        refused="evac: unproven",
    ),
    Case(
        name="a proof that does not exist",
        given=(owner(1, N1),),
        then=owner(2, N2, node_proof=P1),
        refused="evac: unproven",
    ),
    Case(
        name="both kinds of proof",
        given=(owner(1, N1), released(1, N1, proof=P1), dead(N1, 1, proof=P2)),
        then=owner(2, N2, node_proof=P2, release=P1),
        refused="evac: unproven",
    ),
    Case(
        name="release of another instance",
        given=(owner(1, N1), owner(1, N1, vm=OTHER_VM), released(1, N1, proof=P1, vm=OTHER_VM)),
        then=owner(2, N2, release=P1),
        refused="evac: unproven",
    ),
    Case(
        name="release of an earlier epoch",
        given=(owner(1, N1), released(1, N1, proof=P1), owner(2, N2, release=P1)),
        then=owner(3, N3, release=P1),
        refused="evac: unproven",
    ),
    Case(
        name="an epoch left out",
        given=(owner(1, N1), dead(N1, 1, proof=P1)),
        then=owner(3, N2, node_proof=P1),
        refused="evac: unproven",
    ),
    Case(
        name="an instance begins at epoch 2",
        given=(dead(N1, 1, proof=P1),),
        then=owner(2, N2, node_proof=P1),
        refused="evac: unproven",
    ),
    Case(
        name="a first owner with a proof",
        given=(dead(N1, 1, proof=P1),),
        then=owner(1, N2, node_proof=P1),
        refused="evac: ledger",
    ),
    Case(name="an epoch 0", then=owner(0, N1), refused="evac: ledger"),
    Case(
        name="an owner that is proven dead already",
        given=(dead(N1, 5, proof=P1),),
        then=owner(1, N1, 5),
        refused="evac: ledger",
    ),
    Case(
        name="an owner below the incarnation that is proven dead",
        given=(dead(N1, 5, proof=P1),),
        then=owner(1, N1, 4),
        refused="evac: ledger",
    ),
    Case(
        name="the epoch is taken",
        given=(owner(1, N1),),
        then=owner(1, N2),
        refused="evac: conflict",
    ),
    Case(
        name="an earlier epoch than the last",
        given=(owner(1, N1), dead(N1, 1, proof=P1), owner(2, N2, node_proof=P1)),
        then=owner(2, N3, node_proof=P1),
        refused="evac: conflict",
    ),
    Case(
        name="a rising run",
        given=(owner(1, N1),),
        then="UPDATE ownership SET run = run + 1",
    ),
    *(
        Case(
            name=f"update of {change}",
            given=(owner(1, N1, 2),),
            then=f"UPDATE ownership SET {change}",
            refused="evac: ledger",
        )
        for change in (
            "run = 0",
            "run = run",
            f"node_id = '{N2}'",
            f"run = run + 1, node_id = '{N2}'",
            "incarnation = 9",
            "term = 2",
            "epoch = 2",
            f"instance_id = '{OTHER_VM}'",
            "created_at = '2020-01-01 00:00:00+00:00'",
        )
    ),
    Case(
        name="an owner is deleted",
        given=(owner(1, N1),),
        then="DELETE FROM ownership",
        refused="evac: ledger",
    ),
    Case(
        name="a proof is deleted",
        given=(dead(N1, 1, proof=P1),),
        then="DELETE FROM proof_node",
        refused="evac: ledger",
    ),
    Case(
        name="a proof is widened",
        given=(dead(N1, 1, proof=P1),),
        then="UPDATE proof_node SET incarnation = 99",
        refused="evac: ledger",
    ),
    Case(
        name="a release is deleted",
        given=(owner(1, N1), released(1, N1, proof=P1)),
        then="DELETE FROM proof_release",
        refused="evac: ledger",
    ),
    Case(
        name="a release is changed",
        given=(owner(1, N1), released(1, N1, proof=P1)),
        then="UPDATE proof_release SET evidence = 'x'",
        refused="evac: ledger",
    ),
    Case(
        name="a release by a node that is not the owner",
        given=(owner(1, N1),),
        then=released(1, N2, proof=P1),
        refused="evac: ledger",
    ),
    Case(
        name="a release of an epoch that never was",
        given=(owner(1, N1),),
        then=released(2, N1, proof=P1),
        refused="evac: ledger",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_database_decides(database: Database, case: Case) -> None:
    if case.given:
        database.sql(*case.given)
    if case.refused is None:
        database.sql(case.then)
        return
    count = "SELECT count(*) FROM ownership"
    before = database.value(count)
    with pytest.raises(IntegrityError, match=case.refused):
        database.sql(case.then)
    assert database.value(count) == before


async def test_replacing_rows_does_not_get_around_it(database: Database) -> None:
    """SQLite deletes without asking the delete triggers when an insert replaces."""
    database.sql(owner(1, N1), released(1, N1, proof=P1), dead(N3, 1, proof=P2))
    replacing: tuple[str, ...]
    if database.dialect == "sqlite":
        replacing = (
            owner(1, N2, verb="INSERT OR REPLACE"),
            dead(N3, 9, proof=P2, verb="INSERT OR REPLACE"),
            released(1, N1, proof=P1, verb="INSERT OR REPLACE"),
            f"UPDATE OR REPLACE ownership SET node_id = '{N2}'",
        )
    else:
        replacing = (
            f"{owner(1, N2)} ON CONFLICT (instance_id, epoch) DO UPDATE SET node_id = '{N2}'",
            f"{dead(N3, 9, proof=P2)} ON CONFLICT (id) DO UPDATE SET incarnation = 9",
            "TRUNCATE ownership CASCADE",
        )
    for statement in replacing:
        with pytest.raises(IntegrityError, match=r"evac: (conflict|ledger)"):
            database.sql(statement)
    assert database.value("SELECT node_id FROM ownership") == N1
    assert database.value("SELECT incarnation FROM proof_node") == 1


async def test_services_get_errors_with_names(
    database: Database, scheduler: Store, monitor: Store
) -> None:
    database.sql(owner(1, N1), dead(N2, 1, proof=P2))
    with pytest.raises(UnprovenAssignment, match="exactly one proof"):
        async with scheduler.transaction() as tx:
            await tx.execute(text(owner(2, N3)))
    with pytest.raises(LedgerRefused, match="rising run"):
        async with scheduler.transaction() as tx:
            await tx.execute(text("UPDATE ownership SET run = 0"))
    with pytest.raises(LedgerRefused, match="proven dead"):
        async with scheduler.transaction() as tx:
            await tx.execute(text(owner(1, N2, vm=OTHER_VM)))
    with pytest.raises(Conflict):
        async with scheduler.transaction() as tx:
            await tx.execute(text(owner(1, N3)))
    with pytest.raises(Conflict):
        async with monitor.transaction() as tx:
            await tx.execute(text(dead(N2, 1, proof=P3).replace("'{}'", "'null'")))
    async with monitor.transaction() as tx:
        await tx.execute(text(dead(N1, 1, proof=P1).replace("'{}'", "'null'")))
    async with scheduler.transaction() as tx:
        await tx.execute(text(owner(2, N3, node_proof=P1)))
        await tx.execute(text("UPDATE ownership SET run = 2 WHERE epoch = 2"))


@pytest.mark.real
async def test_a_proof_and_an_assignment_to_the_same_node_do_not_pass_each_other(
    postgresql: Database,
) -> None:
    """Without the lock both would commit, and a row of a dead incarnation would look alive."""
    async with (
        await psycopg.AsyncConnection.connect(postgresql.url) as proving,
        await psycopg.AsyncConnection.connect(postgresql.url) as assigning,
    ):
        await proving.execute(dead(N1, 1, proof=P1))
        late = asyncio.create_task(assigning.execute(owner(1, N1)))
        await _blocked(postgresql)
        await proving.commit()
        with pytest.raises(psycopg.errors.CheckViolation, match="proven dead"):
            await late
        await assigning.rollback()


@pytest.mark.real
async def test_an_assignment_that_was_first_is_covered_by_the_proof_that_follows(
    postgresql: Database,
) -> None:
    async with (
        await psycopg.AsyncConnection.connect(postgresql.url) as proving,
        await psycopg.AsyncConnection.connect(postgresql.url) as assigning,
        await psycopg.AsyncConnection.connect(postgresql.url) as other,
    ):
        await assigning.execute(owner(1, N1))
        await other.execute(owner(1, N1, vm=OTHER_VM))  # assignments do not wait for one another
        late = asyncio.create_task(proving.execute(dead(N1, 1, proof=P1)))
        await _blocked(postgresql)
        await assigning.commit()
        await other.commit()
        await late
        await proving.commit()
    postgresql.sql(owner(2, N2, node_proof=P1))


@pytest.mark.real
async def test_owners_are_not_assigned_from_an_old_snapshot(postgresql: Database) -> None:
    async with await psycopg.AsyncConnection.connect(postgresql.url) as connection:
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        with pytest.raises(psycopg.errors.CheckViolation, match="READ COMMITTED"):
            await connection.execute(owner(1, N1))
        await connection.rollback()


@pytest.mark.real
async def test_a_lookalike_table_of_the_caller_does_not_fool_the_trigger(
    postgresql: Database,
) -> None:
    postgresql.sql(owner(1, N1))
    with pytest.raises(IntegrityError, match="evac: unproven"):
        postgresql.sql(
            "CREATE TEMPORARY TABLE proof_node (id text, node_id text, incarnation bigint)",
            f"INSERT INTO proof_node VALUES ('{P1}', '{N1}', 9)",
            "SET search_path = pg_temp, public",
            owner(2, N2, node_proof=P1).replace("INTO ownership", "INTO public.ownership"),
        )


@pytest.mark.real
async def test_two_schedulers_race_for_one_epoch(postgresql: Database) -> None:
    postgresql.sql(owner(1, N1), dead(N1, 1, proof=P1))
    first, second = postgresql.store("scheduler"), postgresql.store("scheduler")

    async def assign(store: Store, node: str) -> str:
        async with store.transaction() as tx:
            await tx.execute(text(owner(2, node, node_proof=P1)))
        return node

    outcomes = await asyncio.gather(assign(first, N2), assign(second, N3), return_exceptions=True)
    winners = [outcome for outcome in outcomes if isinstance(outcome, str)]
    losers = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
    assert (len(winners), len(losers)) == (1, 1), outcomes
    assert postgresql.value("SELECT node_id FROM ownership WHERE epoch = 2") == winners[0]


async def _blocked(database: Database) -> None:
    """Wait until a session of this database waits for a lock."""
    deadline = asyncio.get_running_loop().time() + 10
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    while database.value(query) == 0:
        assert asyncio.get_running_loop().time() < deadline, "nobody waits for the lock"
        await asyncio.sleep(0.02)
