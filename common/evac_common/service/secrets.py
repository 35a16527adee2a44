"""Secrets at rest: encrypted with one key that is given to the services as a file credential.

    box = SecretBox.from_file(credentials / "evac_secret_key")
    row = box.encrypt("calvin"); box.decrypt(row)

The key is a Fernet key: 32 random bytes, URL-safe base64, one line. Several lines are several keys:
the first encrypts, all of them decrypt, so a key can be changed while rows still carry the old one.
Nothing here logs, and no error carries a secret.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from evac_common.errors import EvacError, SettingsRefused

KEY_NAME: Final = "evac_secret_key"  # the credential's file name


class SecretUnreadable(EvacError):
    """A stored secret was not made with any of the keys in use."""

    code = "secret.unreadable"
    expected = True


class SecretBox:
    """Encrypts and decrypts small texts. Its repr shows no key."""

    def __init__(self, keys: list[str]) -> None:
        """Raises SettingsRefused for anything that is not one or more Fernet keys."""
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError as error:
            # The message of the library says what a key must be; the key itself is not in it.
            raise SettingsRefused(f"{KEY_NAME}: {error}") from None

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read the keys. Raises SettingsRefused naming the file."""
        try:
            lines = path.read_text("ascii").split()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsRefused(f"{path}: the secret key cannot be read: {error}") from error
        return cls(lines)

    @staticmethod
    def new_key() -> str:
        """A fresh key, for `init` commands and labs."""
        return Fernet.generate_key().decode("ascii")

    def encrypt(self, text: str) -> bytes:
        return self._fernet.encrypt(text.encode("utf-8"))

    def decrypt(self, token: bytes) -> str:
        """Raises SecretUnreadable when no key fits, or the token was changed."""
        try:
            return self._fernet.decrypt(bytes(token)).decode("utf-8")
        except InvalidToken:
            raise SecretUnreadable from None
