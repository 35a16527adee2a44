"""Database addresses: what operators write, and what the drivers are given."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from evac_common.errors import SettingsRefused

_DRIVERS = {
    "postgresql": ("postgresql+psycopg", "postgresql+psycopg"),
    "postgres": ("postgresql+psycopg", "postgresql+psycopg"),
    "sqlite": ("sqlite+pysqlite", "sqlite+aiosqlite"),
}


def blocking_url(url: str) -> URL:
    """The address for a blocking engine (migrations). Raises SettingsRefused."""
    return _with_driver(url, 0)


def async_url(url: str) -> URL:
    """The address for an asyncio engine (services). Raises SettingsRefused."""
    return _with_driver(url, 1)


def _with_driver(url: str, index: int) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsRefused("the database address cannot be read") from error
    drivers = _DRIVERS.get(parsed.drivername.partition("+")[0])
    if drivers is None:
        raise SettingsRefused(
            "the database must be postgresql:// or sqlite://", given=parsed.drivername
        )
    if drivers is _DRIVERS["sqlite"] and parsed.database in (None, "", ":memory:"):
        raise SettingsRefused("SQLite needs a file: every connection would see its own database")
    return parsed.set(drivername=drivers[index])
