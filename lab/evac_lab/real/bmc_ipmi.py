"""An IPMI BMC over a `Switch`: chassis status and control (off, on, cycle, reset), whose it is."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Any, Final

from pyghmi.ipmi.bmc import Bmc
from pyghmi.ipmi.private.session import Session

from evac_lab.real.bmc_switch import Refused, Switch

_NODE_BUSY: Final = 0xC0
_WRONG_STATE: Final = 0xD5  # as any machine that is off answers `cycle`
_GET_DEVICE_GUID, _GET_SYSTEM_GUID = (6, 0x08), 0x37
_RMCP_PLUS, _OPEN_SESSION, _OPEN_SESSION_ANSWER = 6, 0x10, 0x11
_RAKP_HMAC_SHA1, _NO_CIPHER_SUITE_MATCH = 1, 0x11
# A packet that arrives just before the library begins to wait is noticed when the wait is over.
_LOOK_S: Final = 0.05


class IpmiBmc(Bmc):  # type: ignore[misc] # to mypy pyghmi, without types, is Any
    """pyghmi's BMC. All methods answer a completion code or what they are asked for."""

    def __init__(
        self, switch: Switch, *, user: str, password: str, address: str, port: int
    ) -> None:
        super().__init__({user: password}, port=port, address=address)
        self._switch = switch

    def get_system_guid(self) -> uuid.UUID:
        """The machine's DMI UUID, sent in the byte order of SMBIOS."""
        identity = self._switch.identity()
        if identity is None:
            raise NotImplementedError  # the library's word for "answer that there is none"
        return identity

    def get_power_state(self) -> str:
        return "on" if self._switch.reads_on() else "off"

    def power_off(self) -> int:
        return _code(lambda: self._switch.set(on=False))

    def power_on(self) -> int:
        return _code(lambda: self._switch.set(on=True))

    def power_cycle(self) -> int:
        return self.power_reset() if self._switch.reads_on() else _WRONG_STATE

    def power_reset(self) -> int:
        return _code(self._switch.cycle)

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
        if (request["netfn"], request["command"]) == _GET_DEVICE_GUID:
            # The library knows only the other way to ask the same.
            request = {**request, "command": _GET_SYSTEM_GUID}
        super().handle_raw_request(request, session)


def _code(order: Callable[[], None]) -> int:
    try:
        order()
    except Refused:
        return _NODE_BUSY
    return 0


def serve(switch: Switch, *, user: str, password: str, address: str, port: int) -> None:
    """Answer for ever, one request after the other. Prints `listening` when it does."""
    IpmiBmc(switch, user=user, password=password, address=address, port=port)
    print("listening", flush=True)
    while True:
        Session.wait_for_rsp(timeout=_LOOK_S)
