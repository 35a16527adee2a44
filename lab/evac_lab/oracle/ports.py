"""What the oracle is told, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Witness(Protocol):
    """Told by the simulated hardware, synchronously, at the moment itself.

    `at_s` is real (virtual) time in seconds since the loop began: one clock for all, that no fault
    turns. `node` is the machine's name; a node id is what the machine's daemon calls itself.
    """

    def began(self, node: str, instance_id: str, epoch: int, run: int, at_s: float) -> None:
        """A guest executes from now on: it can write to its disks."""

    def ended(self, node: str, instance_id: str, epoch: int, run: int, at_s: float) -> None:
        """That guest executes no more."""

    def booted(self, node: str, at_s: float) -> None:
        """The machine was switched on; nothing executes on it yet."""

    def powered_off(self, node: str, at_s: float) -> None:
        """The machine has no power; every guest of it was told as ended before."""

    def published(
        self, user: str, endpoint: str, exchange: str, routing_key: str, body: bytes, at_s: float
    ) -> None:
        """The broker accepted this message of that user.

        `endpoint`: the machine or controller that sent it, whoever's credentials it used.
        """

    def committed(self, at_s: float) -> None:
        """Some service's transaction was committed: the database may have changed."""

    def restored(self, at_s: float) -> None:
        """The database went back in time."""

    def fault(self, component: str, kind: str, at_s: float) -> None:
        """A fault was really injected. `component`: a letter of A S M C B D V P N W."""

    def well(self, component: str, at_s: float) -> None:
        """Broker (B) or database (D) works again: every lasting fault of it is over."""

    def reach(self, endpoint: str, peer: str, whole: bool, at_s: float) -> None:
        """Whether its way to the broker, or to the database, is whole, after one was changed."""

    def process(self, name: str, what: str, at_s: float) -> None:
        """`what`: started, killed, hung, resumed, stopped, failed."""


class NoWitness:
    """Nobody watches."""

    def began(self, node: str, instance_id: str, epoch: int, run: int, at_s: float) -> None:
        pass

    def ended(self, node: str, instance_id: str, epoch: int, run: int, at_s: float) -> None:
        pass

    def booted(self, node: str, at_s: float) -> None:
        pass

    def powered_off(self, node: str, at_s: float) -> None:
        pass

    def published(
        self, user: str, endpoint: str, exchange: str, routing_key: str, body: bytes, at_s: float
    ) -> None:
        pass

    def committed(self, at_s: float) -> None:
        pass

    def restored(self, at_s: float) -> None:
        pass

    def fault(self, component: str, kind: str, at_s: float) -> None:
        pass

    def well(self, component: str, at_s: float) -> None:
        pass

    def reach(self, endpoint: str, peer: str, whole: bool, at_s: float) -> None:
        pass

    def process(self, name: str, what: str, at_s: float) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken promise."""

    invariant: str  # S1 ... S9, S12, L1 ... L6: reliability.md section 3
    at_s: float
    node: str | None
    instance: str | None
    sentence: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.at_s:.3f} s: {self.sentence}"
