"""BMC passwords at rest: sealed with the key of a file credential, opened only to compare."""

from __future__ import annotations

from evac_api.core.refusals import Conflict
from evac_common.service.secrets import SecretBox, SecretUnreadable


def seal(box: SecretBox | None, password: str) -> bytes | None:
    """The sealed password; None for none. Raises Conflict when the api has no key."""
    if not password:
        return None
    if box is None:
        raise Conflict(
            "a BMC password cannot be stored: this api has no secret key",
            hint="`evac-api init --secret-key FILE` makes one; name it in `secret_key_file`",
        )
    return box.encrypt(password)


def unsealed(box: SecretBox | None, sealed: bytes) -> str | None:
    """The password; None when no key opens it (then any password given is a new one)."""
    if box is None:
        return None
    try:
        return box.decrypt(sealed)
    except SecretUnreadable:
        return None
