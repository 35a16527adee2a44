"""The hypervisor port over libvirt.

A start is two calls, as a promise needs it: `createXML` builds the domain paused, `resume` lets it
execute. Whoever gave up waiting for the first never makes the second, so what a hung libvirtd
builds late never touches a disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import libvirt
import structlog

from evac_common.messages.commands import InstanceSpec
from evac_common.messages.reports import StartErrorKind
from evac_common.model.identity import Gen
from evac_compute.adapters.libvirt_driver import errors, events
from evac_compute.adapters.libvirt_driver.domain_xml import (
    NAMESPACE,
    DomainOptions,
    Own,
    dashed,
    domain_xml,
    read_own,
    undashed,
)
from evac_compute.adapters.libvirt_driver.workers import Workers
from evac_compute.ports import (
    Domain,
    DomainEnded,
    Facts,
    HypervisorBack,
    HypervisorEvent,
    HypervisorLost,
    HypervisorUnreachable,
    StartError,
)

Result = TypeVar("Result")

RECONNECT_MIN_S = 0.2
POLL_S = 0.25
CLOSE_LIMIT_S = 2.0
KEEPALIVE_COUNT = 3  # a silent libvirtd is given up after (count + 1) intervals
_EXECUTING = frozenset(
    {libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED, libvirt.VIR_DOMAIN_SHUTDOWN}
)


class LibvirtHypervisor:
    """One libvirt. `run` keeps it connected; without a connection every call fails at once."""

    def __init__(
        self,
        uri: str,
        *,
        options: DomainOptions | None = None,
        call_time_limit_s: float = 10.0,
        start_time_limit_s: float = 60.0,
        threads: int = 8,
        reconnect_max_s: float = 10.0,
        keepalive_s: int = 5,
        net_dir: Path = Path("/sys/class/net"),
    ) -> None:
        self._uri = uri
        # libvirt's own test driver builds no paused domains and knows no keepalive.
        self._mock = uri.startswith("test:")
        self._options = options or DomainOptions()
        self._call_s, self._start_s = call_time_limit_s, start_time_limit_s
        self._reconnect_max_s = reconnect_max_s
        self._keepalive_s = keepalive_s
        self._net_dir = net_dir
        self._workers = Workers(threads=threads, name="libvirt")
        self._connection: Any = None
        self._lost = asyncio.Event()
        self._why = "not connected yet"
        self._sinks: list[Callable[[HypervisorEvent], None]] = []
        self._known: dict[str, tuple[int, int]] = {}  # epoch and run of domains, for their events
        self._endings = events.Endings()
        self._log: Any = structlog.get_logger().bind(hypervisor=uri)

    # --- connection ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        events.register()
        pause_s = RECONNECT_MIN_S
        callback = 0
        try:
            while True:
                self._lost.clear()
                try:
                    connection, callback = await self._workers.run(
                        self._open, limit_s=self._call_s, what="connecting"
                    )
                except (libvirt.libvirtError, HypervisorUnreachable) as error:
                    self._why = str(error)
                    await asyncio.sleep(pause_s)
                    pause_s = min(self._reconnect_max_s, pause_s * 2)
                    continue
                pause_s = RECONNECT_MIN_S
                self._connection = connection
                self._tell(HypervisorBack())
                await self._lost.wait()
                await self._close(connection, callback)
        finally:
            if self._connection is not None:
                await self._close(self._connection, callback)
            self._workers.close()

    def _open(self) -> tuple[Any, int]:
        connection = libvirt.open(self._uri)
        if not self._mock:
            connection.setKeepAlive(self._keepalive_s, KEEPALIVE_COUNT)
        connection.registerCloseCallback(self._closed, None)
        callback = connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None
        )
        return connection, callback

    async def _close(self, connection: Any, callback: int) -> None:
        def close() -> None:
            # Each registration holds the connection: without this it would stay open.
            for step in (
                lambda: connection.domainEventDeregisterAny(callback),
                connection.unregisterCloseCallback,
                connection.close,
            ):
                try:
                    step()
                except libvirt.libvirtError as error:
                    self._log.info("closing a dead connection", why=str(error))

        self._connection = None
        try:
            await self._workers.run(close, limit_s=CLOSE_LIMIT_S, what="closing")
        except HypervisorUnreachable as error:
            self._log.info("the old connection does not close", why=str(error))
        await asyncio.sleep(0)  # what closing handed to the loop is done before the loop may end

    def _closed(self, connection: Any, reason: int, _: Any) -> None:
        if connection is self._connection or self._connection is None:
            names = {
                libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "an error",
                libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "its end",
                libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "no keepalive",
                libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT: "this daemon",
            }
            self._give_up(f"the connection was closed by {names.get(reason, reason)}")

    def _give_up(self, why: str) -> None:
        if self._connection is not None and not self._lost.is_set():
            self._why = why
            self._lost.set()
            self._tell(HypervisorLost(why=why))

    # --- events --------------------------------------------------------------------------------

    def subscribe(self, sink: Callable[[HypervisorEvent], None]) -> None:
        self._sinks.append(sink)

    def _tell(self, event: HypervisorEvent) -> None:
        for sink in self._sinks:
            sink(event)

    def _lifecycle(self, _: Any, domain: Any, event: int, detail: int, __: Any) -> None:
        instance_id = undashed(domain.UUIDString())
        reason = self._endings.hear(instance_id, event, detail)
        known = self._known.get(instance_id)
        if reason is not None and known is not None:
            epoch, run = known
            self._tell(DomainEnded(instance_id=instance_id, epoch=epoch, run=run, reason=reason))

    # --- reading -------------------------------------------------------------------------------

    async def facts(self) -> Facts:
        def read(connection: Any) -> Facts:
            kind, version = connection.getType(), connection.getVersion()
            info = connection.getInfo()
            try:
                # `getInfo` was seen to report less than half of the memory, and not the same twice.
                memory_mib = connection.getMemoryStats(-1)["total"] // 1024
            except libvirt.libvirtError:
                memory_mib = info[1]
            return Facts(
                hypervisor=f"{kind} {version // 1_000_000}.{version // 1000 % 1000}",
                vcpus=info[2],
                memory_mib=memory_mib,
                bridges=_bridges(self._net_dir),
            )

        return await self._ask(read, "facts")

    async def domains(self) -> Sequence[Domain]:
        def read(connection: Any) -> tuple[Domain, ...]:
            found = (_read_domain(domain) for domain in connection.listAllDomains(0))
            return tuple(
                sorted(
                    (domain for domain in found if domain is not None and domain.epoch),
                    key=lambda domain: domain.instance_id,
                )
            )

        domains = await self._ask(read, "the list of domains")
        for domain in domains:
            self._known[domain.instance_id] = (domain.epoch, domain.run)
        return domains

    async def find(self, instance_id: str) -> Domain | None:
        def read(connection: Any) -> Domain | None:
            domain = _lookup(connection, instance_id)
            return None if domain is None else _read_domain(domain)

        return await self._ask(read, "a domain's state")

    # --- acting --------------------------------------------------------------------------------

    async def start(
        self, spec: InstanceSpec, *, instance_id: str, epoch: int, run: int, gen: Gen
    ) -> None:
        own = Own(instance_id=instance_id, epoch=epoch, run=run, gen=gen)
        definition = domain_xml(spec, own, self._options)
        self._known[instance_id] = (epoch, run)
        present = await self.find(instance_id)
        if present is None:
            flags = 0 if self._mock else libvirt.VIR_DOMAIN_START_PAUSED
            try:
                await self._call(
                    lambda connection: connection.createXML(definition, flags),
                    "a start",
                    limit_s=self._start_s,
                )
            except libvirt.libvirtError as error:
                await self._nothing_left(instance_id, epoch, run)
                raise StartError(errors.start_kind(error), str(error)) from error
        elif (present.epoch, present.run) != (epoch, run):
            detail = f"a domain of epoch {present.epoch}, run {present.run} is there"
            raise StartError(StartErrorKind.HYPERVISOR, detail)
        await self._resume(instance_id, epoch, run)

    async def _resume(self, instance_id: str, epoch: int, run: int) -> None:
        def resume(connection: Any) -> bool:
            domain = _lookup(connection, instance_id)
            shown = None if domain is None else _read_domain(domain)
            if shown is None or (shown.epoch, shown.run) != (epoch, run):
                return False
            if not shown.running:
                domain.resume()
            return True

        try:
            there = await self._call(resume, "resuming")
        except libvirt.libvirtError as error:
            await self._nothing_left(instance_id, epoch, run)
            raise StartError(errors.start_kind(error), str(error)) from error
        if not there:
            raise StartError(StartErrorKind.HYPERVISOR, "the domain went away while it was started")

    async def _nothing_left(self, instance_id: str, epoch: int, run: int) -> None:
        """After a failed start: a domain of this run that is there all the same is ended."""
        found = await self.find(instance_id)
        if found is not None and (found.epoch, found.run) == (epoch, run):
            await self.destroy(instance_id, epoch=epoch)

    async def stop(self, instance_id: str, *, epoch: int, grace_s: float) -> None:
        def ask(connection: Any) -> None:
            domain = _lookup(connection, instance_id)
            shown = None if domain is None else _read_domain(domain)
            if shown is not None and 0 < shown.epoch <= epoch and shown.running:
                try:
                    domain.shutdown()
                except libvirt.libvirtError as error:
                    if errors.is_connection(error):
                        raise
                    self._log.info("the guest cannot be asked to power off", why=str(error))

        if grace_s > 0:
            await self._ask(ask, "a shutdown")
            loop = asyncio.get_running_loop()
            until_s = loop.time() + grace_s
            while await self._there(instance_id, epoch):
                left_s = until_s - loop.time()
                if left_s <= 0:
                    break
                await asyncio.sleep(min(POLL_S, left_s))
        await self.destroy(instance_id, epoch=epoch)

    async def destroy(self, instance_id: str, *, epoch: int) -> None:
        await self._end(instance_id, lambda shown: 0 < shown.epoch <= epoch)
        if await self._there(instance_id, epoch):
            raise HypervisorUnreachable("the domain was ended and is still there")

    async def discard(self, instance_id: str, *, epoch: int, run: int) -> None:
        def is_meant(shown: Domain) -> bool:
            return (shown.epoch, shown.run, shown.running) == (epoch, run, False)

        await self._end(instance_id, is_meant)

    async def _end(self, instance_id: str, is_meant: Callable[[Domain], bool]) -> None:
        def end(connection: Any) -> None:
            domain = _lookup(connection, instance_id)
            shown = None if domain is None else _read_domain(domain)
            if shown is None or not is_meant(shown):
                return
            try:
                domain.destroy()
            except libvirt.libvirtError as error:
                if not (errors.is_missing(error) or errors.is_not_running(error)):
                    raise
            _undefine(connection, instance_id)

        try:
            await self._call(end, "ending a domain")
        except libvirt.libvirtError as error:
            raise HypervisorUnreachable(f"the domain does not end: {error}") from error

    async def _there(self, instance_id: str, epoch: int) -> bool:
        found = await self.find(instance_id)
        return found is not None and 0 < found.epoch <= epoch

    async def _call(
        self, call: Callable[[Any], Result], what: str, *, limit_s: float | None = None
    ) -> Result:
        """Run `call(connection)` in a thread.

        Raises HypervisorUnreachable when the outcome is not known; libvirt's other errors pass.
        """
        connection = self._connection
        if connection is None or self._lost.is_set():
            raise HypervisorUnreachable(self._why)
        try:
            return await self._workers.run(
                lambda: call(connection), limit_s=limit_s or self._call_s, what=what
            )
        except libvirt.libvirtError as error:
            if errors.is_connection(error):
                self._check_alive(connection)
                raise HypervisorUnreachable(f"{what}: {error}") from error
            raise

    async def _ask(self, call: Callable[[Any], Result], what: str) -> Result:
        """As `_call`, for questions: whatever goes wrong, there is no answer."""
        try:
            return await self._call(call, what)
        except libvirt.libvirtError as error:
            raise HypervisorUnreachable(f"{what}: {error}") from error

    def _check_alive(self, connection: Any) -> None:
        """A dead connection is sometimes known only by its failing calls."""
        if connection is self._connection and not connection.isAlive():
            self._give_up("a call failed and the connection is dead")


def _lookup(connection: Any, instance_id: str) -> Any:
    try:
        return connection.lookupByUUIDString(dashed(instance_id))
    except libvirt.libvirtError as error:
        if errors.is_missing(error):
            return None
        raise


def _read_domain(domain: Any) -> Domain | None:
    """A domain; epoch 0 when it carries no metadata of ours. None: it went away meanwhile."""
    try:
        epoch, run = _read_own(domain)
        state, _ = domain.state()
    except libvirt.libvirtError as error:
        if errors.is_missing(error):
            return None
        raise
    return Domain(
        instance_id=undashed(domain.UUIDString()),
        epoch=epoch,
        run=run,
        running=state in _EXECUTING,
    )


def _read_own(domain: Any) -> tuple[int, int]:
    try:
        metadata = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return 0, 0
        raise
    return read_own(metadata)


def _undefine(connection: Any, instance_id: str) -> None:
    """Somebody made a definition of it: without its domain it must not come back by itself."""
    domain = _lookup(connection, instance_id)
    if domain is not None and not domain.isActive() and domain.isPersistent():
        domain.undefine()


def _bridges(net_dir: Path) -> tuple[str, ...]:
    if not net_dir.is_dir():
        return ()
    return tuple(sorted(found.parent.name for found in net_dir.glob("*/bridge")))
