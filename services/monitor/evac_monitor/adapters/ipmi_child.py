"""One conversation with one BMC, in a process of its own: the program behind `power_ipmi`."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from pyghmi import exceptions
from pyghmi.ipmi import command
from pyghmi.ipmi.private import session

from evac_monitor.adapters.power_wire import Answer, Request, answer_once

_GET_SYSTEM_GUID: Final = {"netfn": 0x06, "command": 0x37}
_POKE_S: Final = 0.02


def converse(request: Request) -> Answer:
    """Log in, do the one call, log out."""
    try:
        bmc = command.Command(
            bmc=request["address"],
            userid=request["username"],
            password=request["password"],
            port=request["port"],
            keepalive=False,
        )
    except exceptions.PyghmiException as error:
        return _login_failed(error)
    except OSError as error:  # the name does not resolve, no route
        return {"error": f"cannot reach the BMC: {error}", "hopeless": False}
    try:
        return {"value": _call(bmc, request["call"])}
    except exceptions.PyghmiException as error:
        return {"error": f"{request['call']}: {error}", "hopeless": False}
    finally:
        bmc.ipmi_session.logout()


def _call(bmc: Any, call: str) -> str | None:
    match call:
        case "power_off":
            bmc.set_power("off", wait=False)
            return None
        case "power_state":
            return str(bmc.get_power()["powerstate"])
        case "identity":
            answer = bmc.raw_command(**_GET_SYSTEM_GUID)
            data = bytes(answer.get("data", b""))
            # Not every BMC knows its system: then it says nothing about whose it is.
            return data.hex() if "error" not in answer and len(data) == 16 else None
        case _:
            raise ValueError(f"unknown call {call!r}")


def _poke() -> None:
    """Wake the library's reading thread again and again.

    An answer that arrives between sending and waiting is otherwise noticed only when the packet
    would be sent again, up to a second later (pyghmi 1.6.19, `_io_wait`). The byte is the one with
    which the library wakes that thread itself.
    """
    while True:
        time.sleep(_POKE_S)
        for own in session.iosockets[:1]:
            own.sendto(b"\x01", (session.myself, own.getsockname()[1]))


def _login_failed(error: Exception) -> Answer:
    text = str(error)
    if text in ("", "None", "timeout"):  # the library's ways to say that nothing came
        return {"error": "it did not answer", "hopeless": False}
    # The library has one class for all of these; only the texts tell them apart.
    refused = any(
        words in text.lower() for words in ("password", "username", "user name", "unauthorized")
    )
    return {"error": f"the BMC refused the login: {text}" if refused else text, "hopeless": refused}


def main() -> None:
    threading.Thread(target=_poke, daemon=True).start()
    answer_once(converse)


if __name__ == "__main__":
    main()
