"""The network between one client and the broker, with faults on demand.

A cut link behaves as TCP does: what is sent waits, and arrives when the link heals in time; when it
does not, the ends take the connection for lost after their heartbeat timeout, each by itself. Each
direction can be cut alone: then the end that hears nothing gives up, and the other is told of it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from evac_common.bus.port import Delivery, Outgoing
from evac_common.bus.timings import BusTimings

if TYPE_CHECKING:
    from evac_common.bus.embedded.broker import EmbeddedBroker

Act = Callable[[], None]


def broker_time_s() -> float:
    """The loop's time as nobody's process sees it: a client's own clock may run fast or slow."""
    return contextvars.Context().run(asyncio.get_running_loop().time)


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

    def publishing(self, message: Outgoing) -> Fate:
        """A late one waits at the broker: it arrives even when its connection is long gone."""

    def delivering(self, queue: str, delivery: Delivery) -> Fate:
        """A lost delivery goes back to its queue, as when the broker resends on a new channel."""


class Clear:
    """No faults."""

    def publishing(self, message: Outgoing) -> Fate:
        return NOW

    def delivering(self, queue: str, delivery: Delivery) -> Fate:
        return NOW


class Link:
    """One party's way to the broker; shared by all connections of that party.

    `outward` and `inward` are its directions as the party sees them: what it sends, what it hears.
    """

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        dead_after_s: float = BusTimings().dead_after_s,
        name: str = "",  # of the party, for judges
    ) -> None:
        self.name = name
        self.faults: Faults = faults or Clear()
        self.dead_after_s = dead_after_s
        self.outward = self.inward = True
        self.changed_at_s = 0.0  # broker time of the last change
        self.connections: dict[Connection, None] = {}
        self._late: dict[object, tuple[asyncio.TimerHandle, Act, contextvars.Context]] = {}

    @property
    def up(self) -> bool:
        """Whether both directions pass: a new connection needs both."""
        return self.outward and self.inward

    def cut(self) -> None:
        """From now on nothing passes, in either direction, and nobody is told."""
        self.set(outward=False, inward=False)

    def heal(self) -> None:
        """What is still waiting passes now; connections that one end has given up are reset."""
        self.set(outward=True, inward=True)

    def set(self, *, outward: bool, inward: bool) -> None:
        """Cut or heal each direction."""
        if (outward, inward) == (self.outward, self.inward):
            return
        self.outward, self.inward = outward, inward
        self.changed_at_s = broker_time_s()
        for connection in list(self.connections):
            connection.on_change()

    def later(self, delay_s: float, act: Act, context: contextvars.Context) -> None:
        """Do `act` after a delay that `hurry` may cut short."""
        key = object()

        def due() -> None:
            del self._late[key]
            act()

        timer = asyncio.get_running_loop().call_later(delay_s, due, context=context)
        self._late[key] = (timer, act, context)

    def hurry(self) -> None:
        """Whatever is late arrives now."""
        late, self._late = self._late, {}
        for timer, act, context in late.values():
            timer.cancel()
            asyncio.get_running_loop().call_soon(act, context=context)


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
        self._frozen = False
        self._held: list[tuple[bool, Act]] = []  # by direction: towards the broker?
        self._broker_patience: asyncio.TimerHandle | None = None
        self._client_patience: asyncio.TimerHandle | None = None
        link.connections[self] = None

    def to_broker(self, act: Act) -> None:
        """Run `act` at the broker, unless the connection is gone by then."""
        self._send(True, act, 0.0)

    def to_broker_late(self, act: Act, delay_s: float) -> None:
        """Run `act` so much later at the broker, if that lives then; the connection need not."""
        empty = contextvars.Context()
        self.to_broker(partial(self.link.later, delay_s, partial(self._if_alive, act), empty))

    def to_client(self, act: Act, delay_s: float = 0.0) -> None:
        self._send(False, act, delay_s)

    def abort(self) -> None:
        """The client's end is closed (or its process was killed and the kernel closed it)."""
        if self.client_open:
            self.client_open = False
            if self.link.outward:
                self._forget_at_broker()

    def broker_died(self) -> None:
        """The broker's end is closed."""
        if self.broker_open:
            self.broker_open = False
            if self.link.inward:
                self._lose_at_client("the broker closed the connection")

    def freeze(self) -> None:
        """The client's process is stopped: it sends no heartbeat, and the kernel says nothing."""
        self._frozen = True
        self.on_change()

    def thaw(self) -> None:
        self._frozen = False
        self.on_change()

    def on_change(self) -> None:
        """The link, or whether the client runs at all, has changed."""
        link = self.link
        self._wait_at_broker(link.outward and not self._frozen)
        self._wait_at_client(link.inward)
        if link.outward and not self.client_open:
            self._forget_at_broker()
        if link.inward and not self.broker_open:
            self._lose_at_client("the broker reset the connection")
        held, self._held = self._held, []
        for towards_broker, act in held:
            self._send(towards_broker, act, 0.0)

    def _wait_at_broker(self, heard: bool) -> None:
        if heard and self._broker_patience is not None:
            self._broker_patience.cancel()
            self._broker_patience = None
        elif not heard and self._broker_patience is None and self.broker_open:
            self._broker_patience = asyncio.get_running_loop().call_later(
                self.link.dead_after_s, self._broker_gives_up, context=contextvars.Context()
            )

    def _wait_at_client(self, heard: bool) -> None:
        if heard and self._client_patience is not None:
            self._client_patience.cancel()
            self._client_patience = None
        elif not heard and self._client_patience is None and self.client_open:
            self._client_patience = asyncio.get_running_loop().call_later(
                self.link.dead_after_s, self._client_gives_up, context=self.client.context
            )

    def _broker_gives_up(self) -> None:
        self._forget_at_broker()
        if self.link.inward:
            self._lose_at_client("the broker closed the connection: it heard no heartbeat")

    def _client_gives_up(self) -> None:
        self._lose_at_client("no heartbeat from the broker")
        if self.link.outward:
            self._forget_at_broker()

    def _forget_at_broker(self) -> None:
        if self.broker_open:
            self.broker_open = False
            self.broker.forget(self)
        self._leave()

    def _lose_at_client(self, why: str) -> None:
        if self.client_open:
            self.client_open = False
            asyncio.get_running_loop().call_soon(
                self.client.lost, self, why, context=self.client.context
            )
        self._leave()

    def _leave(self) -> None:
        """Nothing can happen any more to a connection that both ends have given up."""
        if not self.client_open and not self.broker_open:
            self.link.connections.pop(self, None)
            self._held.clear()
            for timer in (self._broker_patience, self._client_patience):
                if timer is not None:
                    timer.cancel()

    def _send(self, towards_broker: bool, act: Act, delay_s: float) -> None:
        context = contextvars.Context() if towards_broker else self.client.context
        arrive = partial(self._arrive, towards_broker, act)
        if delay_s > 0:
            self.link.later(delay_s, arrive, context)
        else:
            asyncio.get_running_loop().call_soon(arrive, context=context)

    def _arrive(self, towards_broker: bool, act: Act) -> None:
        if not (self.link.outward if towards_broker else self.link.inward):
            self._held.append((towards_broker, act))
        elif self.broker_open if towards_broker else self.client_open:
            act()

    def _if_alive(self, act: Act) -> None:
        if self.broker.alive:
            act()
