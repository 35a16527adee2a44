"""The network between one client and the broker, with faults on demand.

A cut link behaves as TCP does: what is sent waits, and arrives when the link heals in time; when it
does not, both ends take the connection for lost after their heartbeat timeout, each by itself.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from evac_common.bus.port import Delivery, Outgoing
from evac_common.bus.timings import BusTimings

if TYPE_CHECKING:
    from evac_common.bus.embedded.broker import EmbeddedBroker

Act = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Fate:
    """When a message arrives, in seconds from now, once for each entry. None at all: it is lost.

    `answered=False`: it arrives, and the confirmation is lost.
    """

    delays_s: tuple[float, ...] = (0.0,)
    answered: bool = True


NOW: Final = Fate()


class Faults(Protocol):
    """What happens to messages on a link. Called once for each message and direction."""

    def publishing(self, message: Outgoing) -> Fate: ...

    def delivering(self, queue: str, delivery: Delivery) -> Fate:
        """A lost delivery goes back to its queue, as when the broker resends on a new channel."""


class Clear:
    """No faults."""

    def publishing(self, message: Outgoing) -> Fate:
        return NOW

    def delivering(self, queue: str, delivery: Delivery) -> Fate:
        return NOW


class Link:
    """One party's way to the broker; shared by all connections of that party."""

    def __init__(
        self, faults: Faults | None = None, *, dead_after_s: float = BusTimings().dead_after_s
    ) -> None:
        self.faults: Faults = faults or Clear()
        self.dead_after_s = dead_after_s
        self.up = True
        self.changed_at_s = 0.0  # loop time of the last cut or heal
        self.connections: dict[Connection, None] = {}

    def cut(self) -> None:
        """From now on nothing passes, in either direction, and nobody is told."""
        if self.up:
            self.up = False
            self.changed_at_s = asyncio.get_running_loop().time()
            for connection in list(self.connections):
                connection.on_cut()

    def heal(self) -> None:
        """What is still waiting passes now; connections that one end has given up are reset."""
        if not self.up:
            self.up = True
            self.changed_at_s = asyncio.get_running_loop().time()
            for connection in list(self.connections):
                connection.on_heal()


class ClientEnd(Protocol):
    """What a connection needs of the client."""

    context: contextvars.Context

    def lost(self, connection: Connection, why: str) -> None: ...

    def delivered(self, consumer: int, tag: int, delivery: Delivery) -> None: ...

    def consumer_gone(self, consumer: int) -> None:
        """The broker cancelled the consumer: its queue was deleted."""


class Connection:
    """One TCP connection between a client and a broker, with what each end believes about it.

    Each end's work is scheduled in that end's own context, so that a crash of one process never
    takes with it what belongs to the other.
    """

    def __init__(self, broker: EmbeddedBroker, client: ClientEnd, link: Link, user: str) -> None:
        self.broker, self.client, self.link, self.user = broker, client, link, user
        self.client_open = self.broker_open = True
        self._held: list[tuple[bool, Act]] = []
        self._timer: asyncio.TimerHandle | None = None
        link.connections[self] = None

    def to_broker(self, act: Act, delay_s: float = 0.0) -> None:
        """Run `act` at the broker, unless the connection is gone by then."""
        self._send(True, act, delay_s)

    def to_client(self, act: Act, delay_s: float = 0.0) -> None:
        self._send(False, act, delay_s)

    def abort(self) -> None:
        """The client's end is closed (or its process was killed and the kernel closed it)."""
        if self.client_open:
            self.client_open = False
            if self.link.up:
                self._forget_at_broker()

    def broker_died(self) -> None:
        """The broker's end is closed."""
        if self.broker_open:
            self.broker_open = False
            if self.link.up:
                self._lose_at_client("the broker closed the connection")

    def on_cut(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(
            self.link.dead_after_s, self._timed_out, context=contextvars.Context()
        )

    def on_heal(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        held, self._held = self._held, []
        if not self.client_open:
            self._forget_at_broker()
        elif not self.broker_open:
            self._lose_at_client("the broker reset the connection")
        else:
            for towards_broker, act in held:
                self._send(towards_broker, act, 0.0)

    def _timed_out(self) -> None:
        self._held.clear()
        self._forget_at_broker()
        self._lose_at_client("no heartbeat from the broker")

    def _forget_at_broker(self) -> None:
        self.link.connections.pop(self, None)
        if self.broker_open:
            self.broker_open = False
            self.broker.forget(self)

    def _lose_at_client(self, why: str) -> None:
        self.link.connections.pop(self, None)
        if self.client_open:
            self.client_open = False
            asyncio.get_running_loop().call_soon(
                self.client.lost, self, why, context=self.client.context
            )

    def _send(self, towards_broker: bool, act: Act, delay_s: float) -> None:
        context = contextvars.Context() if towards_broker else self.client.context
        loop = asyncio.get_running_loop()
        if delay_s > 0:
            loop.call_later(delay_s, self._arrive, towards_broker, act, context=context)
        else:
            loop.call_soon(self._arrive, towards_broker, act, context=context)

    def _arrive(self, towards_broker: bool, act: Act) -> None:
        if not self.link.up:
            self._held.append((towards_broker, act))
        elif self.broker_open if towards_broker else self.client_open:
            act()
