"""What a driver's exception means to a service. The only place that knows drivers' error codes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import exc

from evac_common.errors import (
    Conflict,
    EvacError,
    LedgerRefused,
    StoreUnavailable,
    UnprovenAssignment,
)

UNPROVEN = "evac: unproven"  # how the triggers' messages begin (0002_ledger.py)
LEDGER = "evac: ledger"
CONFLICT = "evac: conflict"

# SQLSTATE classes and codes after which the same transaction may succeed later.
_WEATHER_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
_WEATHER_CODES = frozenset({"25006", "25P03", "25P04"})  # standby is read-only; idle or too long
_NOT_MIGRATED = frozenset({"42P01", "42703"})  # undefined table, undefined column

_UNIQUE = frozenset({sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY})


@contextmanager
def translated(doing: str, *, committing: bool = False) -> Iterator[None]:
    """Turn driver errors into evac's. An error it does not know is a bug and passes unchanged."""
    try:
        yield
    except (exc.SQLAlchemyError, psycopg.Error, sqlite3.Error, OSError) as error:
        meaning = _meaning(error, doing, committing)
        if meaning is None:
            raise
        raise meaning from error


def _meaning(error: Exception, doing: str, committing: bool) -> EvacError | None:
    match error:
        case exc.DBAPIError(orig=BaseException() as driver_error):
            found = _of_driver(driver_error, doing, error.connection_invalidated)
        case exc.TimeoutError():  # no connection of the pool came free
            found = StoreUnavailable(f"{doing}: all connections are busy")
        case exc.PendingRollbackError() | exc.ResourceClosedError():
            found = StoreUnavailable(
                f"{doing}: the connection was lost earlier in this transaction"
            )
        case psycopg.Error() | sqlite3.Error():
            found = _of_driver(error, doing, False)
        case OSError():  # TimeoutError included
            found = StoreUnavailable(f"{doing}: {_line(error)}")
        case _:
            found = None
    if committing and isinstance(found, StoreUnavailable):
        return StoreUnavailable(
            f"{found.message}; it is unknown whether the transaction was committed, so read again"
        )
    return found


def _of_driver(error: BaseException, doing: str, disconnected: bool) -> EvacError | None:
    text = str(error)
    if UNPROVEN in text:
        return UnprovenAssignment(_line(error))
    if CONFLICT in text:
        return Conflict(_line(error))
    if LEDGER in text:
        return LedgerRefused(_line(error))
    if isinstance(error, psycopg.Error):
        return _of_postgresql(error, doing, disconnected)
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error, doing)
    return StoreUnavailable(f"{doing}: {_line(error)}") if disconnected else None


def _of_postgresql(error: psycopg.Error, doing: str, disconnected: bool) -> EvacError | None:
    state = error.sqlstate or ""
    if state == "23505":
        return Conflict(f"{doing}: {_line(error)}", constraint=error.diag.constraint_name)
    if state in _NOT_MIGRATED:
        return StoreUnavailable(f"{doing}: {_line(error)}: run `evac-api migrate`")
    weather = (
        disconnected
        or state[:2] in _WEATHER_CLASSES
        or state in _WEATHER_CODES
        or (not state and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)))
        or (state[:2] == "28")  # credentials are put right by an operator, without a restart here
    )
    return StoreUnavailable(f"{doing}: {_line(error)}") if weather else None


def _of_sqlite(error: sqlite3.Error, doing: str) -> EvacError | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)  # unset when sqlite3 itself refused
    if code in _UNIQUE:
        return Conflict(f"{doing}: {_line(error)}")
    if "no such table" in str(error) or "no such column" in str(error):
        return StoreUnavailable(f"{doing}: {_line(error)}: run `evac-api migrate`")
    if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
        return StoreUnavailable(f"{doing}: {_line(error)}")
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return StoreUnavailable(f"{doing}: {_line(error)}")
    return None


def _line(error: BaseException) -> str:
    """The first line: PostgreSQL appends context that belongs into its own log."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
