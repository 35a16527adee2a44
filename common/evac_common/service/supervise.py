"""Start named tasks, wait for the stop signal, end them; a task that ends by itself is a fault."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Mapping
from typing import Any

import structlog

from evac_common.service.notify import notify


class TaskEnded(RuntimeError):
    """A task that should run for ever returned."""


async def _guard(name: str, work: Coroutine[Any, Any, Any]) -> None:
    await work
    raise TaskEnded(f"task {name!r} ended by itself")


async def run_service(
    name: str,
    tasks: Mapping[str, Coroutine[Any, Any, Any]],
    stop: asyncio.Event,
) -> None:
    """Run all tasks until `stop` is set, then cancel them and wait for their end.

    Raises the first task's error (as an exception group) when one fails; systemd restarts the
    service.
    """
    log = structlog.get_logger().bind(service=name)
    async with asyncio.TaskGroup() as group:
        jobs = [group.create_task(_guard(title, work), name=title) for title, work in tasks.items()]
        log.info("service started", tasks=len(jobs))
        await stop.wait()
        notify("STOPPING=1")
        for job in jobs:
            job.cancel()
    log.info("service stopped")


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; nothing else happens in a handler."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
