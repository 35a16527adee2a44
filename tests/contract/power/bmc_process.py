"""A BMC on loopback in a process of its own: `bmc_process.py PORT UUID`, faults on its stdin.

Real IPMI 2.0 (pyghmi's own server). The machine behind it is a flag; each change is printed, so
that the test knows what the machine did, whatever its BMC says.
"""

from __future__ import annotations

import struct
import sys
import threading
import time
import uuid
from typing import Any

from pyghmi.ipmi import bmc

SLOW_S = 30.0
OPEN_SESSION_REQUEST, OPEN_SESSION_RESPONSE = 0x10, 0x11
NO_CIPHER_SUITE_MATCH = 0x11
RAKP_HMAC_SHA1 = 1


class Machine(bmc.Bmc):  # type: ignore[misc] # the library is shipped without types
    def __init__(self, *, port: int, system: str) -> None:
        super().__init__({"admin": "calvin"}, port=port, address="127.0.0.1")
        self.system: uuid.UUID | None = uuid.UUID(system)
        self.on = True
        self.slow = self.lies = False

    def power_off(self) -> int:
        if not self.lies and self.on:
            self.on = False
            say("off")
        return 0

    def get_power_state(self) -> str:
        return "on" if self.on else "off"

    def get_system_guid(self) -> uuid.UUID:
        if self.system is None:
            raise NotImplementedError
        return self.system

    def sessionless_data(self, data: bytes, sockaddr: Any) -> None:
        """Refuse what the server cannot speak, as a real BMC does.

        The library's server speaks cipher suite 3 only, and answers a request for another one as
        if it had been asked for that; its own client asks for suite 17 first and cannot read such
        an answer.
        """
        request = data[16:]
        if data[4] == 6 and data[5] == OPEN_SESSION_REQUEST and request[12] != RAKP_HMAC_SHA1:
            payload = bytes([request[0], NO_CIPHER_SUITE_MATCH, 0, 0]) + bytes(request[4:8])
            header = b"\x06\x00\xff\x07\x06" + bytes([OPEN_SESSION_RESPONSE]) + bytes(8)
            self.serversocket.sendto(header + struct.pack("<H", len(payload)) + payload, sockaddr)
            return
        super().sessionless_data(data, sockaddr)

    def handle_raw_request(self, request: Any, session: Any) -> None:
        if self.slow:
            time.sleep(SLOW_S)
        super().handle_raw_request(request, session)


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def obey(machine: Machine) -> None:
    for line in sys.stdin:
        match line.strip():
            case "slow":
                machine.slow = True
            case "lie":
                machine.lies = True
            case "hide":
                machine.system = None
        say("done")


def main() -> None:
    machine = Machine(port=int(sys.argv[1]), system=sys.argv[2])
    threading.Thread(target=obey, args=(machine,), daemon=True).start()
    say("ready")
    machine.listen()


if __name__ == "__main__":
    main()
