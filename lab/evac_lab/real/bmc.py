"""One IPMI BMC as a process of its own: `python -m evac_lab.real.bmc ...`.

It answers chassis status and control (off, on, cycle, reset), Get System GUID and Get Device
GUID, and switches either a lab host:

    python -m evac_lab.real.bmc --port 6231 --uuid UUID --password-file F host DIRECTORY

or, without root and on loopback, a process group:

    python -m evac_lab.real.bmc --port 6231 --uuid UUID --password-file F group PID_FILE -- COMMAND

`--faults FILE` makes it a bad BMC: while the file holds `slow` every command takes 20 s; `lies`:
it says "off" and leaves the machine on; `refuses`: commands fail. Otherwise it is healthy.
It prints `listening` when it does.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from pyghmi.ipmi.bmc import Bmc
from pyghmi.ipmi.private.session import Session

from evac_lab.real.errors import LabError
from evac_lab.real.power import GroupPower, HostPower, Power

SLOW_S = 20.0
_NODE_BUSY, _UNSPECIFIED = 0xC0, 0xFF
_GET_DEVICE_GUID = (6, 0x08)
_RMCP_PLUS, _OPEN_SESSION, _OPEN_SESSION_ANSWER = 6, 0x10, 0x11
_RAKP_HMAC_SHA1, _NO_CIPHER_SUITE_MATCH = 1, 0x11
# A packet that arrives just before the library begins to wait is noticed when the wait is over.
_LOOK_S = 0.05
_OFF_TIME_S = 0.5  # of a power cycle


class PowerBmc(Bmc):  # type: ignore[misc]  # pyghmi ships no types
    """pyghmi's BMC over a `Power`."""

    def __init__(
        self,
        *,
        power: Power,
        identity: uuid.UUID,
        user: str,
        password: str,
        address: str,
        port: int,
        faults: Path | None,
    ) -> None:
        super().__init__({user: password}, port=port, bmcuuid=identity, address=address)
        self._power = power
        self._identity = identity
        self._faults = faults
        self._claims_off = False

    def get_system_guid(self) -> uuid.UUID:
        """The machine's DMI UUID, sent in the byte order of SMBIOS."""
        return self._identity

    def get_power_state(self) -> str:
        fault = self._fault()
        if fault == "lies" and self._claims_off:
            return "off"
        self._claims_off = False
        return "on" if self._power.is_on() else "off"

    def power_off(self) -> int:
        return self._switch(on=False)

    def power_on(self) -> int:
        return self._switch(on=True)

    def power_cycle(self) -> int:
        if not self._power.is_on():
            return 0xD5  # IPMI: not supported in the present state, as for any machine that is off
        return self.power_reset()

    def power_reset(self) -> int:
        failed = self._switch(on=False)
        if failed:
            return failed
        time.sleep(_OFF_TIME_S)
        return self._switch(on=True)

    def _switch(self, *, on: bool) -> int:
        """A completion code: 0, or an error when the world did not follow."""
        fault = self._fault()
        if fault == "slow":
            time.sleep(SLOW_S)
        if fault == "refuses":
            return _NODE_BUSY
        if fault == "lies":
            self._claims_off = not on
            return 0
        try:
            if on:
                self._power.on()
            else:
                self._power.off()
        except (LabError, OSError) as error:
            print(f"power {'on' if on else 'off'} failed: {error}", file=sys.stderr, flush=True)
            return _UNSPECIFIED
        return 0

    def _fault(self) -> str:
        if self._faults is None or not self._faults.exists():
            return ""
        return self._faults.read_text().strip()

    def sessionless_data(self, data: bytes, sockaddr: object) -> None:
        """Refuse the cipher suites that the library's server cannot speak, as a real BMC does.

        The server knows suite 3 only and answers a request for another as if it had been for that;
        its own client asks for suite 17 first and can make nothing of such an answer.
        """
        request = data[16:]
        opens = data[4] == _RMCP_PLUS and data[5] == _OPEN_SESSION
        if opens and request[12] != _RAKP_HMAC_SHA1:
            payload = bytes((request[0], _NO_CIPHER_SUITE_MATCH, 0, 0, *request[4:8]))
            header = bytes((_RMCP_PLUS, 0, 0xFF, 7, 6, _OPEN_SESSION_ANSWER, *bytes(8)))
            answer = header + struct.pack("<H", len(payload)) + payload
            self.serversocket.sendto(answer, sockaddr)
            return
        super().sessionless_data(data, sockaddr)

    def handle_raw_request(self, request: dict[str, Any], session: object) -> None:
        if self._fault() == "slow" and request["netfn"] == 0 and request["command"] == 1:
            time.sleep(SLOW_S)
        if (request["netfn"], request["command"]) == _GET_DEVICE_GUID:
            request = {**request, "command": 0x37}  # pyghmi knows only Get System GUID
        super().handle_raw_request(request, session)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    power: Power = (
        HostPower(options.directory)
        if options.machine == "host"
        else GroupPower(pid_file=options.pid_file, command=options.command)
    )
    PowerBmc(
        power=power,
        identity=options.uuid,
        user=options.user,
        password=options.password_file.read_text().strip(),
        address=options.address,
        port=options.port,
        faults=options.faults,
    )
    print("listening", flush=True)
    while True:
        Session.wait_for_rsp(timeout=_LOOK_S)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evac_lab.real.bmc", description=__doc__)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--uuid", type=uuid.UUID, required=True)
    parser.add_argument("--user", default="admin")
    # In a file: arguments are visible to everybody on the machine.
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--faults", type=Path)
    machines = parser.add_subparsers(dest="machine", required=True)
    host = machines.add_parser("host")
    host.add_argument("directory", type=Path)
    group = machines.add_parser("group")
    group.add_argument("pid_file", type=Path)
    group.add_argument("command", nargs="+")
    return parser


if __name__ == "__main__":
    main()
