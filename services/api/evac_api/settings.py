"""Every knob of the api."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from evac_common.service.secrets import KEY_NAME
from evac_common.service.settings import ServiceSettings


class Settings(ServiceSettings):
    """Settings of evac-api: environment `EVAC_API_<FIELD>`, TOML file, credentials."""

    model_config = SettingsConfigDict(env_prefix="EVAC_API_")

    PROFILES: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fast": {"settle_s": 0.2, "poll_s": 0.1}}

    database_url: SecretStr = Field(
        default=SecretStr("postgresql:///evac"),
        description="PostgreSQL (or, for demo and tests, SQLite) address of the database.",
    )
    listen: str = Field(
        default="127.0.0.1:8470",
        pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):[0-9]{1,5}$",
        description="Address and port of the REST api; port 0 takes a free one.",
    )
    listen_fd: int | None = Field(
        default=None, ge=3, description="An open listening socket to serve on instead of `listen`."
    )
    tls_certificate_file: Path | None = Field(
        default=None, description="PEM; with it the api serves https only."
    )
    tls_key_file: Path | None = Field(default=None, description="PEM; the certificate's key.")
    nodes_bus_url: str = Field(
        default="",
        max_length=1024,
        description="Broker address written into node.toml; unset: `bus_url` without user.",
    )
    management_url: SecretStr | None = Field(
        default=None,
        description="RabbitMQ's management API with user and password; unset: enrolment prints "
        "the commands to run at the broker.",
    )
    secret_key_file: Path | None = Field(
        default=None, description="Key that seals BMC passwords; unset: none can be stored."
    )
    settle_s: float = Field(
        default=1.0, gt=0, le=60, description="Period of looking at open operations, seconds."
    )
    poll_s: float = Field(
        default=0.25, gt=0, le=10, description="How often a waiting request looks again, seconds."
    )
    wait_max_s: float = Field(
        default=60.0, gt=0, le=600, description="Longest `?wait=` of one request, seconds."
    )
    keepalive_s: float = Field(
        default=15.0, gt=0, le=300, description="A silent event stream says so this often, seconds."
    )
    expire_s: float = Field(
        default=600.0, gt=0, description="Period of removing events past 7 days, seconds."
    )
    body_bytes_max: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="Largest request body, bytes."
    )
    streams_max: int = Field(
        default=100, ge=1, description="Event streams and long polls served at the same time."
    )

    def secret_key_path(self) -> Path | None:
        """As set, or among systemd's credentials; None: no BMC password can be kept."""
        if self.secret_key_file is not None:
            return self.secret_key_file
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        given = Path(directory) / KEY_NAME if directory else None
        return given if given is not None and given.exists() else None

    def bus_url_of_nodes(self) -> str:
        """The broker's address for node.toml: never with a controller's user and password."""
        parts = urlsplit(self.nodes_bus_url or self.bus_url.get_secret_value())
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
