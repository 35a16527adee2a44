"""Where the api is and with which token: options, environment, then `~/.config/evac/config.toml`.

url = "https://evac.example.org:8470"
token = "evac_..."
ca_file = "/etc/evac/ca.pem"        # for a certificate of your own
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evac_common.cli.failures import NoAccess, WrongUse

URL: Final = "http://127.0.0.1:8470"
_KEYS: Final = ("url", "token", "ca_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    url: str
    token: str
    ca_file: Path | None = None


def config_file(environment: Mapping[str, str]) -> Path:
    """`$EVAC_CONFIG`, or `config.toml` in the user's configuration directory."""
    if named := environment.get("EVAC_CONFIG"):
        return Path(named)
    home = environment.get("XDG_CONFIG_HOME")
    base = Path(home) if home else Path(environment.get("HOME", "/nonexistent")) / ".config"
    return base / "evac" / "config.toml"


def access(environment: Mapping[str, str], url: str | None = None) -> Access:
    """Raises NoAccess without a token, WrongUse for a configuration that cannot be read."""
    path = config_file(environment)
    stored = _read(path)
    token = environment.get("EVAC_TOKEN") or stored.get("token")
    if not token:
        raise NoAccess(f'no token: set EVAC_TOKEN, or write `token = "..."` into {path}')
    ca_file = environment.get("EVAC_CA_FILE") or stored.get("ca_file")
    found = url or environment.get("EVAC_URL") or stored.get("url") or URL
    if not found.startswith(("http://", "https://")):
        raise WrongUse(f"the api's address must begin with http:// or https:// (got {found!r})")
    return Access(url=found, token=token, ca_file=Path(ca_file) if ca_file else None)


def _read(path: Path) -> dict[str, str]:
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WrongUse(f"{path}: {error}") from error
    for key, value in values.items():
        if key not in _KEYS:
            raise WrongUse(f"{path}: unknown key {key!r}; known are {', '.join(_KEYS)}")
        if not isinstance(value, str):
            raise WrongUse(f"{path}: {key} must be a text")
    return values
