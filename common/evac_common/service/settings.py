"""The base of every service's settings: where values come from, profiles, clear errors.

Precedence, highest first: arguments of the constructor, environment `EVAC_<SERVICE>_<FIELD>`,
files in the systemd credentials directory (secrets), the TOML file, the profile, the defaults.
Unknown keys in the TOML file are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from evac_common.errors import SettingsRefused

Profile = Literal["default", "fast"]

_CONFIG_FILE: ContextVar[Path | None] = ContextVar("config file being read", default=None)


class ServiceSettings(BaseSettings):
    """Settings that every service has.

    A subclass sets `env_prefix` and may give `PROFILES`: values that a profile puts in place of the
    defaults. Anything set explicitly wins over the profile.
    """

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True)

    PROFILES: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    profile: Profile = Field(
        default="default", description="`fast` scales the timings down; for labs only."
    )
    bus_url: SecretStr = Field(
        default=SecretStr("amqp://127.0.0.1:5672/evac"),
        description="AMQP URL of the broker, with user and password.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    health_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Loopback port of /livez, /readyz and /metrics; 0: none.",
    )
    name: str = Field(
        default="",
        max_length=63,
        description="Name of this replica in logs and rows; unset: host name and pid.",
    )

    @classmethod
    def load(cls, config: Path | None = None, **values: Any) -> Self:
        """Read the settings. Raises SettingsRefused naming file, field, value and rule."""
        token = _CONFIG_FILE.set(config)
        try:
            return cls(**values)
        except ValidationError as error:
            lines = [_sentence(problem) for problem in error.errors(include_url=False)]
            where = f"{config}: " if config else ""
            raise SettingsRefused(where + "; ".join(lines)) from error
        except (OSError, ValueError) as error:
            raise SettingsRefused(f"{config}: {error}") from error
        finally:
            _CONFIG_FILE.reset(token)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        if credentials := os.environ.get("CREDENTIALS_DIRECTORY"):
            sources.append(SecretsSettingsSource(settings_cls, secrets_dir=credentials))
        if config := _CONFIG_FILE.get():
            if not config.is_file():
                raise FileNotFoundError("the configuration file does not exist")
            sources.append(TomlConfigSettingsSource(settings_cls, toml_file=config))
        sources.append(_ProfileSource(settings_cls, tuple(sources)))
        return tuple(sources)


class _ProfileSource(InitSettingsSource):
    """The profile's values, once a stronger source has named the profile."""

    def __init__(
        self, settings_cls: type[BaseSettings], stronger: tuple[PydanticBaseSettingsSource, ...]
    ) -> None:
        self._stronger = stronger
        super().__init__(settings_cls, {})

    def __call__(self) -> dict[str, Any]:
        named = next(
            (found["profile"] for source in self._stronger if "profile" in (found := source())),
            "default",
        )
        profiles: Mapping[str, Mapping[str, Any]] = getattr(self.settings_cls, "PROFILES", {})
        return dict(profiles.get(str(named), {}))


def _sentence(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    text = str(problem["msg"]).removeprefix("Value error, ")
    if not where:
        return text
    given = problem.get("input")
    shown = "" if isinstance(given, dict) else f" (got {given!r})"
    return f"{where}: {text}{shown}"


def describe(settings: type[ServiceSettings]) -> list[tuple[str, FieldInfo]]:
    """Field names and their descriptions, for the generated reference."""
    return sorted(settings.model_fields.items())
