"""What the daemon does again and again: register, beat, look at reality, send reports, hear
events.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any, assert_never

from evac_common.bus.port import Bus
from evac_common.errors import BusRefused, EvacError, Retryable, Unroutable
from evac_common.messages.heartbeats import Heartbeat
from evac_common.messages.reports import DomainSeen, Inventory, Registered
from evac_compute import __version__
from evac_compute.actions import Actions
from evac_compute.core import recovery
from evac_compute.core.checks import Present
from evac_compute.core.record import RunState, Sent
from evac_compute.lanes import Lanes
from evac_compute.ports import (
    DomainEnded,
    Hypervisor,
    HypervisorBack,
    HypervisorEvent,
    HypervisorLost,
    HypervisorUnreachable,
)
from evac_compute.sessions import Sessions
from evac_compute.state import Node, by_instance


class Once:
    """Says that something does not work when it begins, and that it works again; not in between."""

    def __init__(self, log: Any, what: str) -> None:
        self._log, self._what, self._failing = log, what, False

    def failed(self, error: EvacError) -> None:
        if not self._failing:
            self._log.warning(f"{self._what} waits", why=str(error))
        self._failing = True

    def worked(self) -> None:
        if self._failing:
            self._log.info(f"{self._what} works again")
        self._failing = False


class Registration:
    """Ask for a session until one is applied."""

    def __init__(self, node: Node, hypervisor: Hypervisor, bus: Bus) -> None:
        self._node, self._hypervisor, self._bus = node, hypervisor, bus
        self._once = Once(node.log, "registration")

    async def step(self) -> None:
        node = self._node
        if not node.asks:
            return
        try:
            facts = await self._hypervisor.facts()
            domains = by_instance(await self._hypervisor.domains())
            message = Registered(
                node_id=node.identity.node_id,
                incarnation=node.recorded.incarnation,
                boot_id=node.identity.boot_id,
                term_seen=node.recorded.term_seen,
                dmi_uuid=node.identity.dmi_uuid,
                hostname=node.identity.hostname,
                daemon_version=__version__,
                hypervisor=facts.hypervisor[:128],
                vcpus=facts.vcpus,
                memory_mib=facts.memory_mib,
                bridges=list(facts.bridges),
                inventory=_seen(node, domains),
            )
            await self._bus.publish(node.outgoing(message))
        except (Retryable, Unroutable) as error:
            # The next try comes after the ordinary pause: a back-off would make a short outage
            # long.
            self._once.failed(error)
        else:
            self._once.worked()


class Heart:
    """Beat, and notice when nobody may have heard it: then the node registers again.

    A beat on a dead connection looks sent for a while, so every new connection counts as a silence.
    """

    def __init__(
        self, node: Node, bus: Bus, *, reregister_after_s: float, hypervisor_away_s: float
    ) -> None:
        self._node, self._bus = node, bus
        self._reregister_after_s = reregister_after_s
        self._hypervisor_away_s = hypervisor_away_s
        self._sequence = 0
        self._last_s: float | None = None
        self._connected_since_s: float | None = None
        self._once = Once(node.log, "heartbeat")

    async def step(self) -> None:
        node = self._node
        self._sequence += 1
        message = Heartbeat(
            node_id=node.identity.node_id,
            incarnation=node.recorded.incarnation,
            term=node.term,
            sequence=self._sequence,
            troubles=node.troubles(away_s=self._hypervisor_away_s),
        )
        try:
            await self._bus.publish(node.outgoing(message))
        except Retryable as error:
            self._once.failed(error)
            return
        self._once.worked()
        now_s = node.clock.monotonic()
        since_s = self._bus.health().connected_since_s
        reconnected = None not in (self._connected_since_s, since_s) and (
            self._connected_since_s != since_s
        )
        silent = self._last_s is not None and now_s - self._last_s > self._reregister_after_s
        if reconnected or silent:
            node.log.warning(
                "registers again", why="a new connection" if reconnected else "no beat for long"
            )
            node.asks = True
            node.wake_register.set()
        self._last_s = now_s
        self._connected_since_s = since_s or self._connected_since_s


class Reports:
    """Send what is journalled, in order, and forget each report once the broker has it."""

    def __init__(self, node: Node, bus: Bus) -> None:
        self._node, self._bus = node, bus
        self._once = Once(node.log, "reporting")

    async def step(self) -> None:
        node = self._node
        while node.recorded.unsent:
            unsent = next(iter(node.recorded.unsent.values()))
            try:
                await self._bus.publish(
                    node.outgoing(unsent.report, message_id=unsent.message_id, at=unsent.at)
                )
                node.write(Sent(message_id=unsent.message_id))
            except (Retryable, Unroutable, BusRefused) as error:
                # No queue yet, no broker, no permission: none of it is the report's fault.
                self._once.failed(error)
                return
            self._once.worked()


class Look:
    """Compare reality with the journal, then tell the controllers all there is."""

    def __init__(
        self,
        node: Node,
        hypervisor: Hypervisor,
        bus: Bus,
        lanes: Lanes,
        actions: Actions,
        sessions: Sessions,
    ) -> None:
        self._node, self._hypervisor, self._bus = node, hypervisor, bus
        self._lanes, self._actions, self._sessions = lanes, actions, sessions
        self._sequence = 0
        self._again: dict[str, asyncio.TimerHandle] = {}  # ends whose event may still come
        self._once = Once(node.log, "inventory")

    async def step(self) -> None:
        node = self._node
        try:
            mark, session = self._lanes.mark(), node.session
            domains = by_instance(await self._hypervisor.domains())
            node.hypervisor_answered()
            differ = [
                instance_id
                for instance_id in recovery.differences(node.recorded, domains, ())
                if self._lanes.quiet_since(instance_id, mark)
            ]
            for instance_id in differ:
                self.reconcile(instance_id)
            # To the controllers an inventory that leaves something out tells of an end without a
            # reason. The report of that end has the reason; the next look follows it at once.
            untold = bool(self._again) or any(each not in domains for each in differ)
            # A look that began in another session is not told in this one: it may be the only thing
            # that the controllers of a new term ever learn.
            if session is not None and session is node.session and not untold:
                await self._bus.publish(node.outgoing(self._inventory(domains, mark)))
            self._sessions.rejoin_if_empty(len(domains), mark)
        except (Retryable, Unroutable) as error:
            if isinstance(error, HypervisorUnreachable):
                node.hypervisor_failed(str(error))
            self._once.failed(error)
        else:
            self._once.worked()

    def reconcile(self, instance_id: str) -> None:
        self._lanes.submit(instance_id, functools.partial(self._reconcile, instance_id))

    async def _reconcile(self, instance_id: str) -> None:
        """The lane is free while an event may still come: commands and other ends do not wait."""
        earlier = self._again.pop(instance_id, None)
        if earlier is not None:
            earlier.cancel()
        again_s = await self._actions.reconcile(instance_id)
        if again_s > 0:
            loop = asyncio.get_running_loop()
            self._again[instance_id] = loop.call_later(again_s, self.reconcile, instance_id)

    def close(self) -> None:
        """Nothing is looked at any more."""
        for timer in self._again.values():
            timer.cancel()
        self._again.clear()

    def _inventory(self, domains: dict[str, Present], mark: int) -> Inventory:
        """Nothing that changed since the look at `mark` is said, nor what is just being released.

        Their own reports say it better, and must not be contradicted by what comes after them.
        """
        node = self._node
        self._sequence += 1
        tomb = node.recorded.tomb
        still = {
            instance_id: domain
            for instance_id, domain in domains.items()
            if self._lanes.quiet_since(instance_id, mark)
            or (self._lanes.is_busy(instance_id) and domain.epoch > tomb(instance_id))
        }
        gone = [
            DomainSeen(instance_id=instance_id, epoch=ran.epoch, run=ran.run, running=False)
            for instance_id, ran in sorted(node.recorded.runs.items())
            if instance_id not in domains
            and ran.state is RunState.ENDED
            and self._lanes.quiet_since(instance_id, mark)
        ]
        return Inventory(
            node_id=node.identity.node_id,
            incarnation=node.recorded.incarnation,
            term=node.term,
            sequence=self._sequence,
            domains=_seen(node, still),
            exited=gone,
            released=dict(node.released),
        )


def _seen(node: Node, domains: dict[str, Present]) -> list[DomainSeen]:
    """As reported: the run is the highest that the epoch was given."""

    def run(instance_id: str, domain: Present) -> int:
        ran = node.recorded.runs.get(instance_id)
        return max(domain.run, ran.run) if ran and ran.epoch == domain.epoch else domain.run

    return [
        DomainSeen(
            instance_id=instance_id,
            epoch=domain.epoch,
            run=run(instance_id, domain),
            running=domain.running,
        )
        for instance_id, domain in sorted(domains.items())
    ]


def note(node: Node, event: HypervisorEvent) -> None:
    """Keep the reason of an end at the moment itself: a look may be at this instance already, and
    must not call lost what an event in the queue explains.
    """
    if isinstance(event, DomainEnded):
        node.ends[event.instance_id] = (event.epoch, event.run, event.reason)


async def hear_events(node: Node, events: asyncio.Queue[HypervisorEvent], look: Look) -> None:
    """What the hypervisor tells, turned into looks at reality; the event gives only the reason."""
    while True:
        event = await events.get()
        match event:
            case DomainEnded():
                look.reconcile(event.instance_id)
            case HypervisorLost():
                node.log.warning("hypervisor lost", why=event.why)
            case HypervisorBack():
                node.log.info("hypervisor is back: looking at everything")
                node.wake_look.set()
            case _:
                assert_never(event)
