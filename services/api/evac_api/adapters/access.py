"""API tokens: random, shown once, stored as a digest."""

from __future__ import annotations

import hashlib
import secrets as chance

from sqlalchemy import insert, select

from evac_api.core.refusals import Conflict, Forbidden, Unauthenticated
from evac_common.store import intent
from evac_common.store.engine import Store

PREFIX = "evac_"  # so that secret scanners and people recognise one


def digest(token: str) -> str:
    """A plain hash suffices: the token is random, so there is nothing to guess from the digest."""
    return hashlib.sha256(token.encode()).hexdigest()


class StoredTokens:
    """`ports.Tokens` on the database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def actor(self, token: str) -> str:
        table = intent.api_token
        async with self._store.read() as tx:
            row = await tx.row(select(table).where(table.c.digest == digest(token)))
        if row is None:
            raise Unauthenticated("this token is not known")
        if row["revoked_at"] is not None:
            raise Forbidden
        return str(row["name"])

    async def issue(self, name: str) -> str:
        table = intent.api_token
        token = PREFIX + chance.token_urlsafe(32)
        async with self._store.transaction() as tx:
            if await tx.scalar(select(table.c.id).where(table.c.name == name)) is not None:
                raise Conflict(f"there is a token named {name}", hint="choose another name")
            token_id = tx.clock.new_id()
            await tx.execute(
                insert(table).values(
                    id=token_id, name=name, digest=digest(token), created_at=tx.now
                )
            )
            await tx.audit(
                actor="evac-api init", action="token.issue", subject=token_id, reason=f"for {name}"
            )
        return token
