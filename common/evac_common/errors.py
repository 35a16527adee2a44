"""Every error evac raises on purpose.

The docstring of a class is its default message; `code` is stable and part of the public contract
(API problem documents, `operation.*` events, exit codes). Anything else that escapes is a bug.
"""

from __future__ import annotations

from typing import Any, ClassVar


class EvacError(Exception):
    """Something evac refused or failed to do."""

    code: ClassVar[str] = "evac.error"
    expected: ClassVar[bool] = (
        False  # True: the caller's mistake or the weather; one log line, no traceback
    )

    def __init__(self, message: str | None = None, **context: Any) -> None:
        self.message = message or (type(self).__doc__ or self.code).strip().splitlines()[0]
        self.context = context
        super().__init__(self.message)

    def __str__(self) -> str:
        if not self.context:
            return self.message
        facts = ", ".join(f"{key}={value!r}" for key, value in self.context.items())
        return f"{self.message} ({facts})"


class Retryable(EvacError):
    """The same call may succeed later; nothing about the request itself is wrong."""

    code = "evac.retryable"
    expected = True


class InvalidInput(EvacError):
    """A value from outside breaks a rule.

    `field` is the path of the value (`disks[0].pool`), `value` what was given, `rule` what it must
    obey.
    """

    code = "input.invalid"
    expected = True

    def __init__(self, *, field: str, value: Any, rule: str) -> None:
        super().__init__(f"{field}: {rule} (got {value!r})")
        self.field, self.value, self.rule = field, value, rule


class SettingsRefused(EvacError):
    """The settings cannot work together; the service will not start with them."""

    code = "settings.refused"
    expected = True


class DecodeError(EvacError):
    """A message from the bus is not one this version can read."""

    code = "message.undecodable"
    expected = True


class UnknownVersion(DecodeError):
    """The message's type is known, this version of it is not."""

    code = "message.unknown_version"


class BusUnavailable(Retryable):
    """The broker cannot be reached or did not answer in time: the outcome is unknown."""

    code = "bus.unavailable"


class QueueFull(BusUnavailable):
    """A queue is at its length limit and took no more; publish again later."""

    code = "bus.queue_full"


class Unroutable(EvacError):
    """No queue is bound for this message: nobody would ever receive it."""

    code = "bus.unroutable"
    expected = True


class BusRefused(EvacError):
    """The broker refused: permissions, a forged user_id, a conflicting declaration."""

    code = "bus.refused"


class StoreUnavailable(Retryable):
    """The database cannot be reached, or the transaction lost a race it may win next time."""

    code = "store.unavailable"


class Conflict(EvacError):
    """A row with this key exists already: somebody else was first, or the name is taken."""

    code = "store.conflict"
    expected = True


class LedgerRefused(EvacError):
    """The ledger refused a change that would rewrite who owned an instance."""

    code = "ledger.refused"


class UnprovenAssignment(LedgerRefused):
    """The ledger refused an owner: there is no proof that the previous owner's copy is dead."""

    code = "ledger.unproven"
