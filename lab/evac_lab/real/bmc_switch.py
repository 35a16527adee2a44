"""A machine's power as its BMC shows it and switches it, with the BMC's faults.

While the faults file holds one of these words the BMC is bad; without the file it is healthy:

- `slow`: every answer about power takes a minute
- `refuses`: orders fail
- `lies`: orders succeed and do nothing
- `claims`: orders succeed, do nothing, and the power reads as if they had: nobody can tell from
  outside, so it shows what a proof is worth when its source cannot be trusted
- `wrong`: it is another machine's, which is on, and it shows that machine's identity
- `nameless`: it does not know whose it is
"""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path
from typing import Final

from evac_lab.real.errors import LabError
from evac_lab.real.power import Power

SLOW_S: Final = 60.0
_LOOK_S: Final = 0.1  # whether it is still slow
_OFF_TIME_S: Final = 0.5  # of a power cycle
_OTHER: Final = uuid.UUID("f0f0f0f0-0000-4000-8000-000000000000")


class Refused(Exception):
    """The BMC did not carry the order out, and says so."""


class Switch:
    def __init__(self, power: Power, identity: uuid.UUID, faults: Path | None) -> None:
        self._power = power
        self._identity = identity
        self._faults = faults
        self._claimed: bool | None = None  # what the last order asked for, while it claims

    def identity(self) -> uuid.UUID | None:
        fault = self._fault()
        if fault == "nameless":
            return None
        return _OTHER if fault == "wrong" else self._identity

    def reads_on(self) -> bool:
        fault = self._patient()
        if fault == "wrong":
            return True
        if fault == "claims" and self._claimed is not None:
            return self._claimed
        self._claimed = None
        return self._power.is_on()

    def set(self, *, on: bool) -> None:
        """Raises Refused."""
        fault = self._patient()
        match fault:
            case "refuses":
                raise Refused("busy")
            case "lies" | "wrong":
                return
            case "claims":
                self._claimed = on
                return
        try:
            self._power.on() if on else self._power.off()
        except (LabError, OSError) as error:
            print(f"power {'on' if on else 'off'} failed: {error}", file=sys.stderr, flush=True)
            raise Refused(str(error)) from error

    def cycle(self) -> None:
        """Off, a moment, on. Raises Refused."""
        self.set(on=False)
        time.sleep(_OFF_TIME_S)  # a machine that is cycled is off for a while
        self.set(on=True)

    def _patient(self) -> str:
        """What is wrong with it; a slow one takes its time first, while it is slow."""
        ends_s = time.monotonic() + SLOW_S
        while (fault := self._fault()) == "slow" and time.monotonic() < ends_s:
            time.sleep(_LOOK_S)  # being slow is what it is told to do
        return fault

    def _fault(self) -> str:
        if self._faults is None or not self._faults.exists():
            return ""
        return self._faults.read_text().strip()
