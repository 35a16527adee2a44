"""One conversation with one BMC over Redfish, in a process of its own: the program behind
`power_redfish`.
"""

from __future__ import annotations

import hashlib
import ssl
from http import HTTPStatus
from typing import Any, Final

import sushy
from requests import exceptions as transport
from requests.adapters import HTTPAdapter
from sushy import auth, connector, exceptions

from evac_monitor.adapters.power_wire import Answer, Request, answer_once

_SYSTEMS_SHOWN: Final = 5


class _Refusal(Exception):
    """Asking again would meet the same."""


class _Pinned(HTTPAdapter):
    """Trusts one certificate, whoever signed it and for whatever name."""

    def __init__(self, sha256: str) -> None:
        self._sha256 = sha256
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, assert_fingerprint=self._sha256)


class _Connector(connector.Connector):  # type: ignore[misc] # to mypy sushy, without types, is Any
    """Every request once, over one connection, on a BMC that is trusted.

    The library would ask three times, two seconds apart, and repeat some refused requests, also the
    order to switch off: when and whether to try again is the monitor's to decide. And it would open
    a connection for each request, for BMCs that choke on long ones; this one is short.
    """

    def __init__(self, url: str, request: Request) -> None:
        trusted = ssl.get_default_verify_paths()
        pin = request["tls_sha256"]
        super().__init__(
            url,
            # The library of `requests` would bring its own list of authorities.
            verify=False if pin else trusted.cafile or trusted.capath or True,
            server_side_retries=1,
            default_request_timeout=request["limit_s"],
        )
        self._session.headers["Connection"] = "keep-alive"
        if pin:
            self._session.mount("https://", _Pinned(pin))

    def _op(self, *args: Any, **options: Any) -> Any:
        return super()._op(*args, **{**options, "server_side_retries_left": 0})


def converse(request: Request) -> Answer:
    """Find the node's system, do the one call.

    Basic authentication, as the specification demands it of every BMC: a session that a killed
    process leaves behind counts against the few that a BMC allows.
    """
    try:
        return {"value": _call(_system(request), request["call"])}
    except exceptions.AccessError as error:
        return {"error": _refused(error.status_code), "hopeless": True}
    except exceptions.ResourceNotFoundError as error:
        return {"error": f"the BMC has no such resource: {error}", "hopeless": False}
    except _Refusal as refusal:
        return {"error": str(refusal), "hopeless": True}
    except exceptions.ConnectionError as error:
        if isinstance(error.__context__, transport.SSLError):
            return _no_tls(request, error.__context__)
        return {"error": f"it did not answer: {_root(error)}", "hopeless": False}
    except exceptions.SushyError as error:
        return {"error": f"{request['call']}: {error}", "hopeless": False}


def _system(request: Request) -> Any:
    address, port = request["address"], request["port"]
    url = f"https://{f'[{address}]' if ':' in address else address}:{port}"
    root = sushy.Sushy(
        url,
        # As bytes: the library of `requests` would take text for Latin-1.
        auth=auth.BasicAuth(request["username"].encode(), request["password"].encode()),
        connector=_Connector(url, request),
    )
    if request["system"]:
        return root.get_system(request["system"])
    paths = root.get_system_collection().members_identities
    if len(paths) != 1:
        found = ", ".join(paths[:_SYSTEMS_SHOWN]) or "none"
        raise _Refusal(f"the BMC has {len(paths)} systems, so power.system must name one: {found}")
    return root.get_system(paths[0])


def _call(system: Any, call: str) -> str | None:
    state = system.power_state
    match call:
        case "power_off":
            # A BMC may refuse to switch off what is off.
            if state is not sushy.PowerState.OFF:
                _force_off(system)
            return None
        case "power_state":
            return "" if state is None else str(state.value).lower()
        case "identity":
            # Not every BMC knows its system: then it says nothing about whose it is.
            return system.uuid or None
        case _:
            raise ValueError(f"unknown call {call!r}")


def _force_off(system: Any) -> None:
    try:
        system.reset_system(sushy.ResetType.FORCE_OFF)
    except exceptions.InvalidParameterValueError:
        allowed = ", ".join(sorted(each.value for each in system.get_allowed_reset_system_values()))
        raise _Refusal(f"its system can do {allowed}, and not ForceOff") from None


def _refused(status: int) -> str:
    if status == HTTPStatus.FORBIDDEN:
        return "the account may not do this: its role at the BMC is too low"
    return "the BMC refused the login: user or password"


def _no_tls(request: Request, error: BaseException) -> Answer:
    """A broken connection, or a certificate that is not trusted.

    The certificate is told, so that a person can compare it with what the BMC itself shows.
    """
    broken: Answer = {"error": f"no TLS connection: {_root(error)}", "hopeless": False}
    try:
        pem = ssl.get_server_certificate(
            (request["address"], request["port"]), timeout=request["limit_s"] / 2
        )
    except OSError:
        return broken
    shown = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    pin = request["tls_sha256"]
    if pin and pin != shown:
        why = f"its certificate has SHA-256 {shown}, and only {pin} is trusted"
    elif not pin and isinstance(_innermost(error), ssl.SSLCertVerificationError):
        why = (
            f"its certificate is not trusted: {_root(error)}. Its SHA-256 is {shown}: if the BMC's "
            "own page shows the same, enrol the node with it (power.tls_sha256)"
        )
    else:
        return broken
    return {"error": why, "hopeless": True}


def _innermost(error: BaseException) -> BaseException:
    """The first cause, without what the libraries wrapped around it."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _root(error: BaseException) -> str:
    return str(_innermost(error))


if __name__ == "__main__":
    answer_once(converse)
