"""A Redfish BMC over a `Switch`: OpenStack's emulator, with our switch behind its one system."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import bcrypt
from sushy_tools import error
from sushy_tools.emulator import main as emulator
from sushy_tools.emulator.resources.systems.fakedriver import FakeDriver
from werkzeug.serving import make_server

from evac_lab.real.bmc_switch import Refused, Switch

_BUSY = 503
_BCRYPT_ROUNDS = 4  # the least: this password is in a file beside it


def _driver(switch: Switch) -> type[FakeDriver]:
    class Driver(FakeDriver):  # type: ignore[misc] # to mypy it is Any: no types
        """Its own would remember a state and change it after a random while."""

        def uuid(self, identity: str) -> str:
            super().uuid(identity)  # raises when there is no such system
            return str(switch.identity() or "")

        def get_power_state(self, identity: str) -> str:
            super().uuid(identity)
            return "On" if switch.reads_on() else "Off"

        def set_power_state(self, identity: str, state: str) -> None:
            super().uuid(identity)
            try:
                match state:
                    case "On" | "ForceOn":
                        switch.set(on=True)
                    case "ForceOff":
                        switch.set(on=False)
                    case "ForceRestart":
                        switch.cycle()
                    case _:
                        raise error.NotSupportedError(f"this machine knows no {state}")
            except Refused as refused:
                raise error.FishyError(str(refused), code=_BUSY) from refused

    return Driver


def serve(
    switch: Switch, *, user: str, password: str, address: str, port: int, certificate: Path
) -> None:
    """Answer for ever, one request after the other. Prints `listening` when it does.

    `certificate`: a PEM file with the certificate and its key; the emulator's files are beside it.
    """
    folder = certificate.with_suffix(".state")  # it may be killed, and leaves nothing elsewhere
    folder.mkdir(mode=0o700, exist_ok=True)
    users = folder / "users"
    digest = bcrypt.hashpw(password.encode(), bcrypt.gensalt(_BCRYPT_ROUNDS)).decode()
    users.write_text(f"{user}:{digest}\n")
    system = {"uuid": str(switch.identity()), "name": "system", "power_state": "On", "nics": []}
    settings: dict[str, Any] = {
        "SUSHY_EMULATOR_FAKE_DRIVER": True,
        "SUSHY_EMULATOR_FAKE_SYSTEMS": [system],
        "SUSHY_EMULATOR_STATE_DIR": str(folder),
        "SUSHY_EMULATOR_AUTH_FILE": str(users),
    }
    emulator.fakedriver.FakeDriver = _driver(switch)
    emulator.app.configure(extra_config=settings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = make_server(address, port, emulator.app, ssl_context=context)
    print("listening", flush=True)
    server.serve_forever()
