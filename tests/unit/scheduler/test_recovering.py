"""A database that went back in time: what is adopted, what is left alone, and nothing starts."""

from __future__ import annotations

from sqlalchemy import insert, update

from evac_common.messages import commands
from evac_common.messages.reports import DomainSeen
from evac_common.model.states import NodeState, RunStrategy
from evac_common.store import intent, nodes
from evac_scheduler.core import recovery
from evac_scheduler.core.recovery import Adopt, Last, Node, Sighting, Waits
from tests.unit.scheduler.cluster import Cluster, id_of

T = 2  # the new term


def domain(name: str, epoch: int, run: int = 1, *, running: bool = True) -> DomainSeen:
    return DomainSeen(instance_id=id_of(name), epoch=epoch, run=run, running=running)


async def _three(cluster: Cluster) -> None:
    """web runs on n1 under epoch 1; so says a database that has forgotten what came then."""
    await cluster.node("n1")
    await cluster.instance("web")
    await cluster.settle()
    await cluster.node("n2")
    await cluster.node("n3")
    assert [row["epoch"] for row in await cluster.ledger("web")] == [1]


async def test_a_forgotten_owner_is_adopted_once_every_node_was_heard(cluster: Cluster) -> None:
    await _three(cluster)
    await cluster.recovering(T, "n1", "n2", "n3")

    await cluster.say(cluster.inventory("n2", 1, domain("web", 4, 3), term=T))
    await cluster.say(cluster.inventory("n1", 1, term=T))
    await cluster.scheduler.sweep()
    assert len(await cluster.ledger("web")) == 1, "n3 was not heard"
    assert not await cluster.recovered(T)

    await cluster.say(cluster.inventory("n3", 1, term=T))
    await cluster.scheduler.sweep()

    assert await cluster.recovered(T)
    (_, adopted) = await cluster.ledger("web")
    assert (adopted["epoch"], adopted["node_id"], adopted["run"]) == (4, id_of("n2"), 3)
    assert adopted["proof_adoption_id"] is not None
    (event,) = await cluster.events("instance.adopted")
    assert "forgotten" in event["body"]["why"]
    assert await cluster.events("instance.quarantined") == []
    status = await cluster.status("web")
    assert (status["phase"], status["node_id"]) == ("running", id_of("n2"))
    for sequence in (2, 3, 4):
        await cluster.say(cluster.inventory("n2", sequence, domain("web", 4, 3), term=T))
        await cluster.scheduler.sweep()
    assert await cluster.take() == [], "it is neither started nor ended anywhere"


async def test_the_next_owner_of_an_adopted_epoch_needs_a_proof_like_any_other(
    cluster: Cluster,
) -> None:
    await test_a_forgotten_owner_is_adopted_once_every_node_was_heard(cluster)

    await cluster.prove_dead("n2")
    await cluster.scheduler.sweep()

    assert [row["epoch"] for row in await cluster.ledger("web")] == [1, 4, 5]
    (start,) = await cluster.take()
    assert isinstance(start, commands.Start)
    assert start.epoch == 5


async def test_nothing_is_started_stopped_or_planned_while_recovering(cluster: Cluster) -> None:
    await _three(cluster)
    await cluster.instance("new")
    await cluster.want("web", RunStrategy.HALTED)
    await cluster.recovering(T, "n1", "n2", "n3")

    for _ in range(3):
        await cluster.scheduler.sweep()

    assert await cluster.take() == []
    assert await cluster.reservations() == []
    assert await cluster.ledger("new") == []


async def test_a_copy_that_the_ledger_calls_over_is_not_ended_while_it_may_have_forgotten(
    cluster: Cluster,
) -> None:
    await _three(cluster)
    await cluster.prove_dead("n1")
    await cluster.settle()
    owner = (await cluster.ledger("web"))[-1]["node_id"]
    other = "n3" if owner == id_of("n2") else "n2"
    await cluster.take()
    await cluster.recovering(T, "n2", "n3")

    await cluster.say(cluster.inventory(other, 1, domain("web", 1), term=T))

    assert await cluster.take() == []


async def test_a_node_proven_down_since_needs_not_be_heard_and_one_proven_before_does(
    cluster: Cluster,
) -> None:
    await _three(cluster)
    await cluster.prove_dead("n3")
    await cluster.recovering(T, "n1", "n2")
    await cluster.say(cluster.inventory("n1", 1, term=T))
    await cluster.say(cluster.inventory("n2", 1, domain("web", 2), term=T))

    await cluster.scheduler.sweep()
    assert not await cluster.recovered(T)

    async with cluster.store.transaction() as tx:
        await tx.execute(
            update(nodes.node_state)
            .where(nodes.node_state.c.node_id == id_of("n3"))
            .values(down_term=T)
        )
    await cluster.scheduler.sweep()
    assert await cluster.recovered(T)


async def test_of_two_copies_none_is_adopted_none_ended_and_no_third_is_started(
    cluster: Cluster,
) -> None:
    await _three(cluster)
    await cluster.recovering(T, "n1", "n2", "n3")
    await cluster.say(cluster.inventory("n1", 1, domain("web", 1), term=T))
    await cluster.say(cluster.inventory("n2", 1, domain("web", 3), term=T))
    await cluster.say(cluster.inventory("n3", 1, term=T))
    await cluster.scheduler.sweep()
    assert await cluster.recovered(T)
    (alarm,) = await cluster.events("instance.double_run_suspected")
    assert "n1 shows epoch 1 too" in alarm["body"]["why"]

    await cluster.prove_dead("n1")
    for sequence in (2, 3):
        await cluster.scheduler.sweep()
        await cluster.say(cluster.inventory("n2", sequence, domain("web", 3), term=T))

    assert [row["epoch"] for row in await cluster.ledger("web")] == [1]
    assert await cluster.take() == []
    assert "n2 shows epoch 3" in (await cluster.status("web"))["reason"]

    for sequence in (4, 5):  # a person ended it
        await cluster.say(cluster.inventory("n2", sequence, term=T))
    await cluster.scheduler.sweep()
    assert [row["epoch"] for row in await cluster.ledger("web")] == [1, 2]


async def test_an_epoch_above_the_ledgers_stops_everything_before_the_monitor_knows(
    cluster: Cluster,
) -> None:
    await _three(cluster)
    await cluster.instance("new")

    await cluster.say(cluster.inventory("n2", 1, domain("web", 2)))
    await cluster.scheduler.sweep()

    assert await cluster.take() == []
    assert await cluster.ledger("new") == []


async def test_an_operator_who_restored_a_backup_stops_everything_at_once(
    cluster: Cluster,
) -> None:
    await _three(cluster)
    await cluster.instance("new")
    async with cluster.store.transaction() as tx:
        await tx.execute(
            insert(intent.cluster_wish).values(
                id=id_of("wish"),
                verb="restored",
                arguments={},
                actor="anna",
                reason="last night's dump",
                operation_id=id_of("operation"),
                created_at=tx.now,
            )
        )

    await cluster.scheduler.sweep()

    assert await cluster.ledger("new") == []


async def test_one_look_without_the_stranger_is_not_believed(cluster: Cluster) -> None:
    await _three(cluster)
    await cluster.say(cluster.inventory("n2", 1, domain("web", 1)))
    await cluster.prove_dead("n1")
    await cluster.scheduler.sweep()
    (item,) = await cluster.items("web")
    assert "n2 shows epoch 1" in item["reason"]

    await cluster.say(cluster.inventory("n2", 2))
    await cluster.scheduler.sweep()
    assert len(await cluster.ledger("web")) == 1

    await cluster.say(cluster.inventory("n2", 3))
    await cluster.scheduler.sweep()
    assert len(await cluster.ledger("web")) == 2


def _node(name: str, **fields: object) -> Node:
    values: dict[str, object] = {
        "state": NodeState.UP,
        "term": T,
        "incarnation": 1,
        "down_term": 0,
        "shown_term": T,
        "shown_incarnation": 1,
        **fields,
    }
    return Node(node_id=name, name=name, **values)  # type: ignore[arg-type] # a test's shorthand


def _seen(node: str, epoch: int, *, explained: bool = False) -> Sighting:
    return Sighting(
        instance_id="web",
        node_id=node,
        node=node,
        epoch=epoch,
        run=1,
        running=True,
        incarnation=1,
        explained=explained,
    )


def _adopted(ledger: Last, *seen: Sighting) -> list[tuple[str, int]]:
    decision = recovery.decide(T, [_node("a"), _node("b")], seen, {"web": ledger}, {"web"})
    assert isinstance(decision, Adopt)
    return [(each.node_id, each.epoch) for each in decision.epochs]


def test_the_higher_of_two_copies_wins_only_where_the_ledger_itself_ended_the_lower() -> None:
    living = Last(epoch=3, over=False)
    assert _adopted(living, _seen("a", 2), _seen("b", 5)) == [("b", 5)]
    assert _adopted(Last(epoch=3, over=True), _seen("a", 3), _seen("b", 5)) == [("b", 5)]
    assert _adopted(living, _seen("a", 3, explained=True), _seen("b", 5)) == []
    assert _adopted(living, _seen("a", 4), _seen("b", 5)) == []
    assert _adopted(living, _seen("a", 5), _seen("b", 5)) == []


def test_a_node_of_another_life_or_term_is_waited_for() -> None:
    fenced = {"state": NodeState.FENCED, "shown_term": 0}
    for fields in ({"shown_term": 1}, {"term": 1}, {"incarnation": 2}, fenced):
        decision = recovery.decide(T, [_node("a", **fields)], [], {}, set())
        assert decision == Waits(nodes=("a",)), fields
    for fields in ({"state": NodeState.NEW, "shown_term": 0}, {"down_term": T, "term": 1}):
        assert isinstance(recovery.decide(T, [_node("a", **fields)], [], {}, set()), Adopt), fields
