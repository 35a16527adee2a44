"""libvirt's events on the running loop, and what they mean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import libvirt
import libvirtaio

from evac_common.model.states import ExitReason

_registered: list[ThreadSafeEvents] = []


class ThreadSafeEvents(libvirtaio.virEventAsyncIOImpl):  # type: ignore[misc] # comes without types
    """libvirtaio, for calls from worker threads.

    libvirt changes its handles and timers in whatever thread makes a call; asyncio's loop must
    only be touched in its own. Everything is therefore handed to the loop, in order.
    """

    def _soon(self, change: Callable[..., Any], *args: Any) -> None:
        try:
            here = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            here = False
        if here:
            change(*args)
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(change, *args)

    def schedule_ff_callback(self, iden: int, opaque: Any) -> None:
        """Free what libvirt gave us, but never inside the call that gives it back."""
        if self.loop.is_closed():
            libvirt.virEventInvokeFreeCallback(opaque)
        else:
            self.loop.call_soon(self._free, opaque)

    def _free(self, opaque: Any) -> None:
        libvirt.virEventInvokeFreeCallback(opaque)
        self._pending_dec()

    def _add_handle(self, fd: int, event: int, cb: Any, opaque: Any) -> int:
        descriptor = libvirtaio.Descriptor(self, fd)
        callback = libvirtaio.FDCallback(self, cb, opaque, descriptor=descriptor, event=event)
        self._soon(self._add, callback, fd)
        return int(callback.iden)

    def _add(self, callback: Any, fd: int) -> None:
        callback.descriptor = self.descriptors[fd]
        self.callbacks[callback.iden] = callback
        callback.descriptor.add_handle(callback)
        self._pending_inc()

    def _update_handle(self, watch: int, event: int) -> None:
        self._soon(self._update, watch, event)

    def _update(self, watch: int, value: int) -> None:
        callback = self.callbacks.get(watch)
        if callback is not None:
            callback.update(value)

    def _remove_handle(self, watch: int) -> int:
        self._soon(super()._remove_handle, watch)
        return 0

    def _add_timeout(self, timeout: int, cb: Any, opaque: Any) -> int:
        callback = libvirtaio.TimeoutCallback(self, cb, opaque)
        self._soon(self._arm, callback, timeout)
        return int(callback.iden)

    def _arm(self, callback: Any, timeout: int) -> None:
        self.callbacks[callback.iden] = callback
        callback.update(timeout)
        self._pending_inc()

    def _update_timeout(self, timer: int, timeout: int) -> None:
        self._soon(self._update, timer, timeout)

    def _remove_timeout(self, timer: int) -> int:
        self._soon(super()._remove_timeout, timer)
        return 0


def register() -> ThreadSafeEvents:
    """Serve libvirt's events on the running loop. libvirt takes one implementation per process."""
    loop = asyncio.get_running_loop()
    if not _registered:
        # Errors are raised to the caller; printing them as well tells nobody anything.
        libvirt.registerErrorHandler(lambda *_: None, None)
        _registered.append(ThreadSafeEvents(loop).register())
    events = _registered[0]
    if events.loop is not loop:
        assert events.loop.is_closed(), "libvirt's events belong to another running loop"
        events.loop = loop
        events.callbacks.clear()
        events.descriptors.clear()
    return events


class Endings:
    """From lifecycle events to the reason of an end: what comes before `stopped` tells more than
    it.
    """

    def __init__(self) -> None:
        self._before: dict[str, ExitReason] = {}

    def hear(self, instance_id: str, event: int, detail: int) -> ExitReason | None:
        """The reason, when this event is the end of a domain here; None otherwise."""
        match event:
            case libvirt.VIR_DOMAIN_EVENT_STARTED:
                self._before.pop(instance_id, None)
            case libvirt.VIR_DOMAIN_EVENT_CRASHED:
                self._before[instance_id] = ExitReason.PANICKED
            case libvirt.VIR_DOMAIN_EVENT_SHUTDOWN:
                # A qemu that was sent SIGTERM says `shutdown, by the host`, and stops as if clean.
                by_host = detail == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST
                reason = ExitReason.DESTROYED if by_host else ExitReason.SHUTDOWN
                self._before[instance_id] = reason
            case libvirt.VIR_DOMAIN_EVENT_STOPPED:
                before = self._before.pop(instance_id, None)
                return self._stopped(detail, before)
            case _:
                pass
        return None

    def _stopped(self, detail: int, before: ExitReason | None) -> ExitReason | None:
        match detail:
            case libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED:
                return None  # it executes elsewhere
            case libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED:
                return ExitReason.DESTROYED
            case libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN:
                return before or ExitReason.SHUTDOWN
            case _:
                return ExitReason.PANICKED if before is ExitReason.PANICKED else ExitReason.CRASHED
