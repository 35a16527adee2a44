"""What can go wrong in `evac`, and the exit code of each. No traceback ever reaches a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from evac_common.errors import EvacError

DONE: Final = 0
REFUSED: Final = 1
WRONG_USE: Final = 2
AWAY: Final = 3
NO_ACCESS: Final = 4
PENDING: Final = 5
INTERRUPTED: Final = 130

EXIT_CODES: Final = {
    DONE: "done",
    REFUSED: "refused by the api, or the operation failed",
    WRONG_USE: "the command line, the configuration or a file is wrong",
    AWAY: "the api cannot be reached or is not ready",
    NO_ACCESS: "no token, or one that is not accepted",
    PENDING: "still pending when the time to wait was over",
    INTERRUPTED: "interrupted",
}


class CliError(EvacError):
    """The command did not do what was asked."""

    expected = True
    exit_code: ClassVar[int] = WRONG_USE


class WrongUse(CliError):
    """The command line, the configuration or a file is wrong."""

    code = "cli.wrong_use"


class ApiAway(CliError):
    """The api cannot be reached."""

    code = "cli.api_away"
    exit_code = AWAY


class NoAccess(CliError):
    """The api did not accept the token."""

    code = "cli.no_access"
    exit_code = NO_ACCESS


class Refused(CliError):
    """The api refused. `problem` is its problem document (RFC 9457)."""

    code = "cli.refused"
    exit_code = REFUSED

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or "refused"))
        self.problem = dict(problem)

    @property
    def violations(self) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.problem.get("violations") or []
        return found


class OperationFailed(CliError):
    """What was asked for was not done."""

    code = "cli.operation_failed"
    exit_code = REFUSED


class StillPending(CliError):
    """It is not done yet."""

    code = "cli.pending"
    exit_code = PENDING
