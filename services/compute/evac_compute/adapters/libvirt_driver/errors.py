"""libvirt's errors in evac's words. Most start failures have one code, so their texts decide."""

from __future__ import annotations

from typing import Any, Final

import libvirt

from evac_common.messages.reports import StartErrorKind

# The domain cannot exist on this node as it is declared.
_INVALID: Final = frozenset(
    {
        libvirt.VIR_ERR_INVALID_ARG,
        libvirt.VIR_ERR_XML_ERROR,
        libvirt.VIR_ERR_XML_DETAIL,
        libvirt.VIR_ERR_XML_INVALID_SCHEMA,
        libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
        libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
        libvirt.VIR_ERR_NO_SUPPORT,
    }
)
_CONNECTION: Final = frozenset(
    {
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_OPERATION_TIMEOUT,  # the domain's lock is held: it may be done later
    }
)
# In this order: a lock that is held must never pass for anything else.
_TEXTS: Final = (
    ('Failed to get "write" lock', StartErrorKind.STORAGE_LOCKED),
    ('Failed to get shared "write" lock', StartErrorKind.STORAGE_LOCKED),
    ('Failed to get "consistent read" lock', StartErrorKind.STORAGE_LOCKED),
    ("Cannot access storage file", StartErrorKind.STORAGE),
    ("Cannot access backing file", StartErrorKind.STORAGE),
    ("No such file or directory", StartErrorKind.STORAGE),
    ("Export not found", StartErrorKind.STORAGE),
    ("export not present", StartErrorKind.STORAGE),
    ("Image is not in", StartErrorKind.STORAGE),
    ("Cannot allocate memory", StartErrorKind.CAPACITY),
    ("cannot set up guest memory", StartErrorKind.CAPACITY),
    ("Cannot get interface MTU", StartErrorKind.NETWORK),
    ("Unable to add bridge", StartErrorKind.NETWORK),
    ("Unable to create tap device", StartErrorKind.NETWORK),
)


def is_connection(error: Any) -> bool:
    """Did the connection fail, so that nobody knows what became of the call?"""
    domain = error.get_error_domain()
    return domain in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE) or (
        error.get_error_code() in _CONNECTION
    )


def is_missing(error: Any) -> bool:
    return bool(error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN)


def is_not_running(error: Any) -> bool:
    return bool(error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID)


def start_kind(error: Any) -> StartErrorKind:
    """Why a start failed. Held image locks have no code of their own."""
    text = str(error)
    if error.get_error_code() == libvirt.VIR_ERR_RESOURCE_BUSY:
        return StartErrorKind.STORAGE_LOCKED
    for part, kind in _TEXTS:
        if part in text:
            return kind
    if error.get_error_code() == libvirt.VIR_ERR_NO_MEMORY:
        return StartErrorKind.CAPACITY
    if error.get_error_code() in _INVALID:
        return StartErrorKind.INVALID
    return StartErrorKind.HYPERVISOR
