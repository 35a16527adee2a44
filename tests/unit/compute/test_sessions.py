"""What a session may take away, what it leaves to an operator, and what it never does."""

from __future__ import annotations

from evac_common.messages.heartbeats import Heartbeat
from evac_common.messages.reports import (
    CommandRefused,
    Inventory,
    RefusalReason,
    Registered,
    SessionApplied,
    Started,
    StartRefused,
    Stopped,
)
from tests.unit.compute.world import TERM, World, id_of, in_world


async def _three(world: World) -> None:
    await world.into_session()
    for name in ("keep", "lose", "odd"):
        await world.say(world.start(name, epoch=3))
    await world.hear(Started, count=3)


def test_only_what_is_named_superseded_is_ended_and_the_rest_is_quarantined() -> None:
    async def test(world: World) -> None:
        await _three(world)
        await world.say(
            world.session(
                allowed={id_of("keep"): 3, id_of("elsewhere"): 8, id_of("odd"): 4},
                superseded={id_of("lose"): 3},
            )
        )
        applied = await world.hear(SessionApplied, count=2)
        assert applied.destroyed == [id_of("lose")]
        assert applied.quarantined == [id_of("odd")]
        await world.settle(10)
        assert world.executing() == [("keep", 3, 1), ("odd", 3, 1)]
        assert "exited" not in world.reports()
        seen = {domain.instance_id for domain in world.all(Inventory)[-1].domains}
        assert seen == {id_of("keep"), id_of("odd")}
        assert len(world.log) == 3, "a session starts nothing"

    in_world(test)


def test_a_superseded_epoch_below_the_present_one_takes_nothing_away() -> None:
    async def test(world: World) -> None:
        await _three(world)
        await world.say(
            world.session(
                allowed={id_of(name): 3 for name in ("keep", "lose", "odd")},
                superseded={id_of("lose"): 2},
            )
        )
        applied = await world.hear(SessionApplied, count=2)
        assert (applied.destroyed, applied.quarantined) == ([], [])
        assert len(world.executing()) == 3

    in_world(test)


def test_what_was_superseded_never_starts_here_again() -> None:
    async def test(world: World) -> None:
        await world.into_session(superseded={id_of("web"): 4})
        await world.say(world.start("web", epoch=4))
        assert (await world.hear(StartRefused)).epoch == 4
        await world.say(world.start("web", epoch=3))
        assert (await world.hear(CommandRefused)).reason is RefusalReason.OLD_EPOCH

    in_world(test)


def test_a_release_that_the_database_forgot_is_said_again() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        for name in ("web", "other"):
            await world.say(world.start(name, epoch=3))
        await world.hear(Started, count=2)
        await world.say(world.stop_command("web", epoch=3))
        await world.hear(Stopped)
        world.kill_daemon()  # what it was asked about lately is forgotten with it
        world.start_daemon()
        await world.hear(Registered, count=len(world.all(Registered)) + 1)

        allowed = {id_of("web"): 3, id_of("other"): 3}
        await world.say(world.session(term=TERM + 1, allowed=allowed))

        again = await world.hear(Stopped, count=2)
        assert (again.term, again.instance_id, again.epoch) == (TERM + 1, id_of("web"), 3)
        # In the same term its own report is on the way, or nobody knows that the database is old.
        await world.say(world.session(term=TERM + 1, allowed=allowed))
        await world.hear(SessionApplied, count=3)
        await world.settle(10)
        assert len(world.all(Stopped)) == 2
        assert world.executing() == [("other", 3, 1)]

    in_world(test)


def test_a_lower_term_is_refused_also_by_the_next_daemon() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        for _ in range(2):
            refusals = len(world.all(CommandRefused))
            await world.say(world.session(term=TERM - 1))
            refused = await world.hear(CommandRefused, count=refusals + 1)
            assert (refused.reason, refused.verb) == (RefusalReason.OLD_GEN, "session")
            world.kill_daemon()
            world.start_daemon()
            await world.hear(Registered, count=len(world.all(Registered)) + 1)
        await world.say(world.session(term=TERM + 1))
        await world.hear(SessionApplied, count=2)
        await world.settle()
        assert world.all(Heartbeat)[-1].term == TERM + 1

    in_world(test)


def test_a_session_of_another_incarnation_is_refused() -> None:
    async def test(world: World) -> None:
        await world.hear(Registered)
        await world.say(world.session(incarnation=2))
        assert (await world.hear(CommandRefused)).reason is RefusalReason.OLD_GEN
        assert world.all(SessionApplied) == []

    in_world(test)


def test_a_session_for_another_machine_with_this_identity_is_refused() -> None:
    """A copy of a node's disk elsewhere reads the node's own queue, and has its incarnation."""

    async def test(world: World) -> None:
        await world.hear(Registered)
        await world.say(world.session(boot_id="boot-of-the-original"))
        assert (await world.hear(CommandRefused)).reason is RefusalReason.OLD_GEN
        assert world.all(SessionApplied) == []

        await world.say(world.session(boot_id=world.boot_id))
        await world.hear(SessionApplied)

    in_world(test)


def test_a_session_waits_until_the_hypervisor_answers() -> None:
    async def test(world: World) -> None:
        await _three(world)
        world.hypervisor.go_away()
        await world.say(world.session(superseded={id_of("lose"): 3}))
        await world.settle(60)
        assert len(world.all(SessionApplied)) == 1
        world.hypervisor.come_back()
        assert (await world.hear(SessionApplied, count=2)).destroyed == [id_of("lose")]

    in_world(test)


def test_a_node_without_hypervisor_does_not_register() -> None:
    async def test(world: World) -> None:
        world.hypervisor.go_away()
        world.start_daemon()
        await world.settle(30)
        assert world.all(Registered) == []
        assert len(world.all(Heartbeat)) > 10
        world.hypervisor.come_back()
        await world.hear(Registered, within_s=10)

    in_world(test, start_daemon=False)


def test_proven_dead_and_empty_it_begins_a_new_incarnation() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)
        world.kill_daemon()
        world.start_daemon()

        await world.into_session(superseded={id_of("web"): 1}, proven_dead=True)

        assert world.executing() == []
        await world.until(lambda: world.all(Registered)[-1].incarnation == 2)
        assert world.journal.load().incarnation == 2
        await world.into_session()
        await world.say(world.start("web", epoch=2))
        started = await world.hear(Started, count=2)
        assert (started.incarnation, started.epoch) == (2, 2)
        world.never_twice()

    in_world(test)


def test_proven_dead_with_something_left_it_starts_nothing_and_keeps_its_incarnation() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        await world.say(world.start("web"))
        await world.hear(Started)

        await world.say(world.session(proven_dead=True))
        applied = await world.hear(SessionApplied, count=2)

        assert applied.quarantined == [id_of("web")]
        await world.say(world.start("db"))
        assert (await world.hear(CommandRefused)).reason is RefusalReason.NO_SESSION
        await world.settle(60)
        assert world.incarnation == 1
        assert world.executing() == [("web", 1, 1)]

        # An ordinary session of the same life that comes late does not bring it back.
        await world.say(world.session(allowed={id_of("web"): 1}))
        await world.hear(SessionApplied, count=3)
        await world.say(world.start("db"))
        refused = await world.hear(CommandRefused, count=2)
        assert refused.reason is RefusalReason.NO_SESSION

        await world.say(world.session(superseded={id_of("web"): 1}, proven_dead=True))
        await world.until(lambda: world.all(Registered)[-1].incarnation == 2)
        assert world.executing() == []

    in_world(test)


def test_a_start_that_ends_while_the_look_is_answered_keeps_the_incarnation() -> None:
    """A new incarnation proves the old one's guests dead, so no guest may slip past the look."""

    async def test(world: World) -> None:
        await world.into_session()
        world.hypervisor.start_delay_s = 10.0
        await world.say(world.start("web"))
        await world.settle(2)
        await world.say(world.session(proven_dead=True))
        await world.hear(SessionApplied, count=2)
        await world.settle(6)

        world.hypervisor.answer_delays_s["domains"] = 4.0
        await world.say(world.destroy("other"))  # settled at once, and followed by a look
        await world.settle(30)

        assert world.executing() == [("web", 1, 1)]
        assert world.incarnation == 1

    in_world(test)


def test_a_new_term_begins_when_nothing_of_the_old_one_can_come_to_life_any_more() -> None:
    """What the node shows in it is all that the controllers learn of what they forgot."""

    async def test(world: World) -> None:
        await world.into_session()
        world.hypervisor.start_delay_s = 20.0
        await world.say(world.start("web"))
        await world.settle(2)

        await world.say(world.session(term=TERM + 1))
        await world.settle(5)
        assert len(world.all(SessionApplied)) == 1
        await world.say(world.start("late"))
        await world.hear(SessionApplied, count=2)
        await world.settle(15)

        told = [each for each in world.all(Inventory) if each.term == TERM + 1]
        assert told
        for inventory in told:
            assert [each.instance_id for each in inventory.domains] == [id_of("web")]
        assert world.executing() == [("web", 1, 1)]
        assert world.all(CommandRefused)[-1].reason is RefusalReason.NO_SESSION

    in_world(test)


def test_a_look_that_began_in_the_old_term_is_not_told_in_the_new_one() -> None:
    async def test(world: World) -> None:
        await world.into_session()
        world.hypervisor.answer_delays_s["domains"] = 3.0
        await world.settle(12)
        await world.say(world.start("web"))
        await world.hear(Started)
        world.hypervisor.answer_delays_s["domains"] = 0.5
        for term in range(TERM + 1, TERM + 12):
            await world.say(world.session(term=term))
            await world.settle(1.7)
        await world.settle(15)

        for inventory in world.all(Inventory):
            if inventory.term > TERM:
                assert [each.instance_id for each in inventory.domains] == [id_of("web")]
        assert world.all(Inventory)[-1].term == TERM + 11

    in_world(test)


def test_a_session_of_a_higher_term_for_an_earlier_life_makes_the_node_register() -> None:
    """The controllers' memory went back in time: they must be told of this life."""

    async def test(world: World) -> None:
        await world.into_session()
        world.reboot()
        world.start_daemon()
        await world.into_session()
        registered = len(world.all(Registered))
        await world.say(world.session(term=TERM + 1, incarnation=world.incarnation - 1))

        again = await world.hear(Registered, count=registered + 1)
        assert (again.incarnation, again.term_seen) == (2, TERM)
        await world.say(world.session(term=TERM + 1))
        await world.hear(SessionApplied, count=3)
        await world.settle()

        registered = len(world.all(Registered))
        await world.say(world.session(term=TERM, incarnation=world.incarnation - 1))
        await world.settle(10)
        assert len(world.all(Registered)) == registered, "an old one that comes late does not"

    in_world(test)
