"""What a sweep costs must not grow with the instances that are as they should be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event

from tests.unit.scheduler.cluster import Cluster


@contextmanager
def _counted(cluster: Cluster) -> Iterator[list[str]]:
    engine = cluster.scheduler.store._engine.sync_engine
    said: list[str] = []

    def note(conn: object, cursor: object, statement: str, *rest: object) -> None:
        said.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def test_a_sweep_over_settled_instances_has_a_fixed_number_of_statements(
    cluster: Cluster,
) -> None:
    await cluster.node("n1")
    counts = []
    for size in (2, 20):
        for number in range(size):
            await cluster.instance(f"web-{size}-{number}")
        await cluster.settle(60)
        with _counted(cluster) as said:
            await cluster.scheduler.sweep()
        counts.append(len(said))

    assert counts[0] == counts[1] < 20


async def test_waiting_items_are_not_written_again_while_nothing_changes(
    cluster: Cluster,
) -> None:
    await cluster.node("n1", memory_mib=1024)
    for number in range(10):
        await cluster.instance(f"web-{number}", memory_mib=4096)
    await cluster.scheduler.sweep()

    with _counted(cluster) as said:
        await cluster.scheduler.sweep()

    assert await cluster.phases() == {"pending": 10}
    writes = [each for each in said if each.lstrip().startswith(("INSERT", "UPDATE", "DELETE"))]
    assert [each.split()[1] for each in writes] == ["planning_lock"]
