"""A node that refuses its starts for their deadline fails them, and another gets its turn."""

from __future__ import annotations

from evac_common.messages import commands, reports
from evac_common.messages.reports import RefusalReason
from tests.unit.scheduler.cluster import Cluster, id_of


def _late(start: commands.Start) -> reports.CommandRefused:
    return reports.CommandRefused(
        node_id=start.node_id,
        incarnation=start.incarnation,
        command_id=start.command_id,
        verb=start.name,
        instance_id=start.instance_id,
        epoch=start.epoch,
        reason=RefusalReason.DEADLINE,
        detail="its deadline passed 86380.0 s ago",
    )


async def test_a_start_says_when_it_was_issued_by_the_clock_of_its_deadline(
    cluster: Cluster,
) -> None:
    await cluster.node("n1")
    await cluster.instance("web-1")
    await cluster.scheduler.sweep()
    (start,) = await cluster.take()
    assert isinstance(start, commands.Start)
    assert start.issued_at == cluster.clock.now()
    allowed_s = (start.deadline - start.issued_at).total_seconds()
    assert allowed_s == cluster.policy.command_deadline_s


async def test_a_node_that_finds_every_start_late_is_asked_for_the_release(
    cluster: Cluster,
) -> None:
    for node in ("n1", "n2"):
        await cluster.node(node)
    await cluster.instance("web-1")

    seen: list[tuple[str, bool, int]] = []
    at: list[float] = []
    for _ in range(60):
        await cluster.scheduler.sweep()
        for command in await cluster.take():
            assert isinstance(command, commands.Start | commands.Stop)
            run = command.run if isinstance(command, commands.Start) else 0
            seen.append((command.name, command.node_id == id_of("n1"), run))
            at.append(cluster.hand.at_s)
            if isinstance(command, commands.Stop):
                await cluster.say(cluster.stopped(command))
            elif command.node_id == id_of("n1"):
                await cluster.say(_late(command))
                await cluster.say(_late(command))  # told twice, counted once
            else:
                await cluster.say(cluster.started(command))
        cluster.hand.at_s += 1

    first = [("start", True, run) for run in (1, 2, 3)]
    assert seen == [*first, ("stop", True, 0), ("start", False, 1)]
    assert at[:3] == [0.0, 2.0, 6.0], "it backs off"
    assert (await cluster.status("web-1"))["phase"] == "running"
    failures = await cluster.events("instance.start_failed")
    assert len(failures) == 3
    said = "start failed (hypervisor): refused, its deadline passed 86380.0 s ago"
    assert failures[0]["body"]["why"] == said


async def test_a_late_refusal_of_a_command_that_is_not_awaited_counts_for_nothing(
    cluster: Cluster,
) -> None:
    await cluster.node("n1")
    await cluster.instance("web-1")
    await cluster.scheduler.sweep()
    (start,) = await cluster.take()
    assert isinstance(start, commands.Start)
    await cluster.say(cluster.started(start))

    await cluster.say(_late(start))

    status = await cluster.status("web-1")
    assert (status["phase"], status["attempts"]) == ("running", 0)
