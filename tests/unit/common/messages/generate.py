"""Hypothesis strategies for messages, from their schemas."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from hypothesis import strategies as st

from evac_common.messages.registry import Message

MOMENTS = st.datetimes(
    # Hypothesis wants bounds without a zone and adds it.
    min_value=datetime(2000, 1, 1),  # noqa: DTZ001
    max_value=datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@lru_cache(maxsize=256)
def messages(cls: type[Message]) -> st.SearchStrategy[Message]:
    """Valid messages of this class."""
    schema = cls.model_json_schema()
    return _object(schema, schema.get("$defs", {})).map(cls.model_validate)


def _object(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    fields = {name: _value(each, definitions) for name, each in schema["properties"].items()}
    required = set(schema.get("required", ()))
    return st.fixed_dictionaries(
        {name: each for name, each in fields.items() if name in required},
        optional={name: each for name, each in fields.items() if name not in required},
    )


def _value(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of([_value(each, definitions) for each in schema["anyOf"]])
    return _of_type(schema, definitions)


def _of_type(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    match schema["type"]:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1))
        case "number":
            return st.floats(
                schema.get("minimum"),
                schema.get("maximum"),
                allow_nan=False,
                allow_infinity=False,
            )
        case "string":
            return _text(schema)
        case "array":
            return st.lists(_value(schema["items"], definitions), max_size=3)
        case "object" if "properties" in schema:
            return _object(schema, definitions)
        case "object":
            ((pattern, values),) = schema["patternProperties"].items()
            keys = st.from_regex(pattern, fullmatch=True)
            return st.dictionaries(keys, _value(values, definitions), max_size=3)
        case other:
            raise TypeError(f"no strategy for a schema of type {other}")


def _text(schema: Mapping[str, Any]) -> st.SearchStrategy[str]:
    if schema.get("format") == "date-time":
        return MOMENTS.map(datetime.isoformat)
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True)
    return st.text(
        min_size=schema.get("minLength", 0), max_size=min(30, schema.get("maxLength", 30))
    )
