"""What the daemon asks of the world: a hypervisor, a journal that survives crashes, an identity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from evac_common.errors import EvacError, Retryable
from evac_common.messages.commands import InstanceSpec
from evac_common.messages.reports import StartErrorKind
from evac_common.model.identity import Gen
from evac_common.model.states import ExitReason
from evac_compute.core.record import Change, Recorded


class HypervisorUnreachable(Retryable):
    """The hypervisor is away or too slow: whether it did what was asked is unknown."""

    code = "hypervisor.unreachable"


class StartError(EvacError):
    """The hypervisor refused or failed a start; no domain of it is left."""

    code = "hypervisor.start_failed"
    expected = True

    def __init__(self, kind: StartErrorKind, detail: str) -> None:
        super().__init__(detail or None, kind=kind.value)
        self.kind, self.detail = kind, detail


class JournalUnavailable(Retryable):
    """The journal's storage failed; nothing was written."""

    code = "journal.unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    hypervisor: str  # name and version
    vcpus: int
    memory_mib: int
    bridges: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A domain with evac's metadata. `epoch` 0 (from `find` only): it carries none, it is not
    evac's.
    """

    instance_id: str
    epoch: int
    run: int
    running: bool  # False: it exists and does not execute (being built, paused, crashed)


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainEnded:
    """A domain that executed is gone, whoever ended it."""

    instance_id: str
    epoch: int
    run: int
    reason: ExitReason


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervisorLost:
    """Calls fail and events are missed from now on."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervisorBack:
    """Calls work again. Events were missed: look at everything."""


HypervisorEvent = DomainEnded | HypervisorLost | HypervisorBack


class Hypervisor(Protocol):
    """The node's hypervisor.

    Every call ends within a time limit that the adapter was given, with HypervisorUnreachable when
    the outcome is not known. Cancelling a call, or the end of the daemon, does not undo what was
    asked.
    """

    async def facts(self) -> Facts: ...

    async def domains(self) -> Sequence[Domain]:
        """All domains with evac's metadata, executing or not, ordered by instance id."""

    async def find(self, instance_id: str) -> Domain | None:
        """The domain of this instance, also one that carries no metadata."""

    async def start(
        self, spec: InstanceSpec, *, instance_id: str, epoch: int, run: int, gen: Gen
    ) -> None:
        """Build the domain and let it execute; returns when it executes.

        A domain of this very epoch and run that exists already is made to execute, not built
        twice; any other domain of the instance is a StartError. Raises StartError when nothing is
        left of it.

        A start whose outcome was unknown may still build the domain later, but never lets it
        execute once `stop` or `destroy` for its epoch has returned.
        """

    async def stop(self, instance_id: str, *, epoch: int, grace_s: float) -> None:
        """Ask the guest to power off, after `grace_s` end it; returns when the domain is gone.

        A domain of a higher epoch is left alone; none at all is success.
        """

    async def destroy(self, instance_id: str, *, epoch: int) -> None:
        """End the domain at once, unless it is of a higher epoch; returns when it is gone."""

    async def discard(self, instance_id: str, *, epoch: int, run: int) -> None:
        """End the domain if it is of exactly this run and does not execute; else leave it alone.

        Looking and ending are one call, so that nothing comes to life in between as far as the
        hypervisor allows it.
        """

    def subscribe(self, sink: Callable[[HypervisorEvent], None]) -> None:
        """Hand every event to `sink`, in the loop's thread. `sink` only records it."""


class Journal(Protocol):
    """The node's memory across crashes. One daemon at a time may have it open."""

    def load(self) -> Recorded:
        """All that was written."""

    def write(self, changes: Sequence[Change]) -> None:
        """Write all changes or none, durably before it returns (it blocks, for one fsync).

        Raises JournalUnavailable (nothing was written) and WentBack.
        """

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this node is, and which life of its machine this is."""

    node_id: str
    name: str  # for display only
    boot_id: str
    dmi_uuid: str
    hostname: str  # for display only
