"""The services' PostgreSQL roles: their names, and how each gets its password."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from evac_common.errors import SettingsRefused
from evac_common.store.failures import translated
from evac_common.store.urls import blocking_url

ROLES: Final = {"api": "evac_api", "scheduler": "evac_scheduler", "monitor": "evac_monitor"}


def set_password(url: str, service: str, password: str) -> None:
    """Give a service's role its password; blocking. `url` is that of the user who migrated.

    The server sees only the salted verifier, so its log cannot show the password.
    Raises StoreUnavailable, or SettingsRefused when the address is not PostgreSQL's.
    """
    address = blocking_url(url)
    if address.get_backend_name() != "postgresql":
        raise SettingsRefused("only PostgreSQL has roles", given=address.get_backend_name())
    plain = address.set(drivername="postgresql").render_as_string(hide_password=False)
    role = ROLES[service]
    with (
        translated("set password"),
        psycopg.connect(make_conninfo(plain, connect_timeout=5), autocommit=True) as connection,
    ):
        verifier = connection.pgconn.encrypt_password(
            password.encode(), role.encode(), b"scram-sha-256"
        )
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                sql.Identifier(role), sql.Literal(verifier.decode())
            )
        )
