"""Why a request is refused, in a form that REST, the bus and the CLI can all show.

A refusal names what was wrong and, where there is one, the verb that would do; nothing is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evac_common.errors import EvacError


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One value that breaks one rule. `field` is a path: `instances.web-1.disks[0].pool`."""

    field: str
    value: Any
    rule: str


class Refusal(EvacError):
    """The request is refused."""

    expected = True


class Invalid(Refusal):
    """Some values break a rule; nothing was stored."""

    code = "input.invalid"

    def __init__(self, violations: Sequence[Violation]) -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.field}: {first.rule}{more}")
        self.violations = tuple(violations)

    @classmethod
    def one(cls, field: str, value: Any, rule: str) -> Invalid:
        return cls([Violation(field=field, value=value, rule=rule)])


class NotFound(Refusal):
    """There is no such thing."""

    code = "not_found"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is no {kind} named {name}")


class Conflict(Refusal):
    """The present state does not allow it. `hint` names what would do."""

    code = "conflict"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.hint = hint


class Outdated(Refusal):
    """The resource has changed since you read it (If-Match); read it again."""

    code = "precondition_failed"


class Unauthenticated(Refusal):
    """A bearer token is needed: `Authorization: Bearer TOKEN`."""

    code = "unauthenticated"


class Forbidden(Refusal):
    """This token was revoked."""

    code = "forbidden"
