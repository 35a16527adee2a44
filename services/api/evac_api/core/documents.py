"""JSON from outside, strictly: a key given twice, NaN and bottomless nesting are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from evac_api.core.refusals import Invalid, Violation

SHOWN_MAX: Final = 200
ALL: Final = "the document"
_PLAIN: Final = {
    "extra_forbidden": "no such field",
    "missing": "is required",
}
_NOT_YET: Final = {
    "policies": "policies are not supported by this version",
    "policy": "policies are not supported by this version",
}


class _Pairs(dict[str, Any]):
    """A JSON object that remembers the keys it was given twice."""

    twice: tuple[str, ...] = ()


def parse_json(body: bytes) -> Any:
    """The value of a JSON text. Raises Invalid naming the path of a key that is given twice."""
    try:
        value = json.loads(body, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        rule = f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        raise Invalid.one(ALL, None, rule) from error
    except UnicodeDecodeError as error:
        raise Invalid.one(ALL, None, "is not UTF-8") from error
    except RecursionError as error:
        raise Invalid.one(ALL, None, "is nested too deeply") from error
    except ValueError as error:  # NaN, Infinity, or a number of absurd length
        raise Invalid.one(ALL, None, f"is not JSON: {error}") from error
    found: list[Violation] = []
    _find_twice(value, (), found)
    if found:
        raise Invalid(found)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = _Pairs(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice: dict[str, None] = {}
        for key, _ in pairs:
            if key in seen:
                twice[key] = None
            seen.add(key)
        result.twice = tuple(twice)
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _find_twice(value: Any, path: tuple[str | int, ...], found: list[Violation]) -> None:
    if isinstance(value, _Pairs):
        found += [
            Violation(field=dotted((*path, key)), value=key, rule="is given twice")
            for key in value.twice
        ]
        for key, item in value.items():
            _find_twice(item, (*path, key), found)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _find_twice(item, (*path, index), found)


def dotted(path: Sequence[str | int]) -> str:
    """`instances.web-1.disks[0].pool`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or ALL


def violations(errors: Sequence[Any], skip: int = 0) -> list[Violation]:
    """What pydantic found, in our words; `skip` leading parts of each path are dropped."""
    return [_violation(error, skip) for error in errors]


def _violation(error: Any, skip: int) -> Violation:
    path = [part for part in error["loc"][skip:] if part != "[key]"]
    kind = str(error["type"])
    rule = _PLAIN.get(kind) or str(error["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden" and path:
        rule = _NOT_YET.get(str(path[-1]), rule)
    if kind == "string_too_short":
        least = error["ctx"]["min_length"]
        rule = "must not be empty" if least == 1 else f"must have at least {least} characters"
    if kind == "string_pattern_mismatch":
        rule = f"must match {error['ctx']['pattern']}"
    secret = any("pass" in str(part).lower() for part in path) or "power" in path[-2:-1]
    given = None if kind == "missing" else error.get("input")
    return Violation(field=dotted(path), value="(not shown)" if secret else shown(given), rule=rule)


def shown(value: Any) -> Any:
    """A value as a refusal may repeat it: short, and never a whole document."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str) and len(value) > SHOWN_MAX:
        return value[:SHOWN_MAX] + "…"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)[:SHOWN_MAX]
