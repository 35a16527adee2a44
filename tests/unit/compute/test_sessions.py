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
