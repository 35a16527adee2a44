"""What other ways than heartbeats say of a silent node, and when that is too old to count.

None of it is a proof: a reading here only opens or shuts a gate. A node is proven dead by the two
readings of Off that follow the decision to fence, and by nothing that was read before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PEERS_ASKED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What its BMC said before any decision. `off`: it read Off twice, with a pause between."""

    off: bool
    why: str
    at_s: float  # when it was answered, on our monotonic clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What the second channel says. None: it cannot tell."""

    alive: bool | None
    why: str
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What the peers that were asked say, by name. None of them: there was nobody to ask."""

    reached: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    mute: tuple[str, ...] = ()  # did not answer
    at_s: float

    @property
    def asked(self) -> int:
        return len(self.reached) + len(self.failed) + len(self.mute)


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnesses:
    """All that is known of one silent node. None: nobody has answered yet."""

    power: Power | None = None
    second: Sighting | None = None
    peers: Round | None = None

    def fresh(self, now_s: float, *, answers_s: float, power_s: float) -> Witnesses:
        """Without what is too old to count: what it was asked about may have changed."""

        def young(at_s: float, limit_s: float) -> bool:
            return now_s - at_s < limit_s

        return Witnesses(
            power=self.power if self.power and young(self.power.at_s, power_s) else None,
            second=self.second if self.second and young(self.second.at_s, answers_s) else None,
            peers=self.peers if self.peers and young(self.peers.at_s, answers_s) else None,
        )


def choose_peers(candidates: Sequence[str], lots: Sequence[float]) -> tuple[str, ...]:
    """Up to three of the candidates, drawn with one number in [0, 1) per candidate."""
    drawn = sorted(zip(lots, sorted(candidates), strict=True))
    return tuple(name for _, name in drawn[:PEERS_ASKED])


def needed(asked: int) -> int:
    """How many of the peers asked must fail to reach the node: more than half, so 2 of 3.

    With two peers both must fail, with one that one. One that does not answer has not failed to
    reach the node: its silence may be ours.
    """
    return asked // 2 + 1
