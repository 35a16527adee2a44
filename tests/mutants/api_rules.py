"""Rules of the api: what it may forget."""

from __future__ import annotations

from evac_api.core import operations
from tests.mutants.patching import Patching


def forgets_the_deleted(patching: Patching) -> None:
    """A deleted instance's record goes at once, whoever may still run it."""
    original = operations.may_be_purged

    def may_be_purged(remains: operations.Remains) -> bool:
        if not original(remains):
            patching.bite("record gone before its release")
        return True

    patching.function(operations, "may_be_purged", may_be_purged)
