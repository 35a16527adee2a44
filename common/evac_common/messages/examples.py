"""One example of every message, worked out from its schema: the same on every run.

They become the checked-in samples and the examples of the AsyncAPI document. A field's value comes
from its name where a reader would wonder otherwise, and from its schema everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from evac_common.messages.codec import Envelope
from evac_common.messages.registry import Message

_ID: Final = "0123456789abcdef0123456789abcdef"
_MOMENT: Final = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

_BY_NAME: Final[Mapping[str, Any]] = {
    "node": "n1",
    "from_node": "n1",
    "to_node": "n2",
    "silent_nodes": ["n1", "n2"],
    "instance": "web-1",
    "name": "web-1",
    "hostname": "n1.example.org",
    "why": "no heartbeat for 20 s",
    "reason": "planned work on the rack",
    "detail": "the volume does not exist",
    "evidence": "the BMC read Off twice, 1.2 s apart",
    "gate": "hold_off",
    "verb": "fence",
    "target": "n1",
    "actor": "token:ops",
    "until": "2026-01-01T13:00:00Z",
    "boot_id": "6f1c7a3e-0000-4000-8000-000000000001",
    "dmi_uuid": "6f1c7a3e-0000-4000-8000-000000000002",
    "daemon_version": "0.1.0",
    "hypervisor": "QEMU 7.2.0",
    "source": "/srv/vm",
    "volume": "web-1-0.qcow2",
    "format": "qcow2",
    "bridge": "br0",
    "bridges": ["br0"],
    "mac": "52:54:00:12:34:56",
    "kind": "storage",
    "cluster": "evac",
}


def example(cls: type[Message]) -> Message:
    """A valid message of this class."""
    schema = cls.model_json_schema()
    return cls.model_validate(_object(schema, schema.get("$defs", {})))


def example_envelope(cls: type[Message]) -> Envelope:
    return Envelope(
        id=_ID,
        source=f"/evac/{cls.writer}/example",
        time=_MOMENT,
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )


def _object(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _value(name, field, definitions)
        for name, field in schema.get("properties", {}).items()
    }


def _value(name: str, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Any:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _value(name, schema["anyOf"][0], definitions)
    if name in _BY_NAME:
        return _BY_NAME[name]
    return _of_type(name, schema, definitions)


def _of_type(name: str, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Any:
    match schema["type"]:
        case "string":
            return _text(name, schema)
        case "integer":
            return int(schema.get("minimum", 1)) or 1
        case "number":
            return float(schema.get("default", 12.5))
        case "boolean":
            return bool(schema.get("default", True))
        case "array":
            return [_value("", schema["items"], definitions)]
        case "object" if "properties" in schema:
            return _object(schema, definitions)
        case "object":
            return {_ID: _value("", values_of(schema), definitions)}
        case other:
            raise TypeError(f"{name}: no example for a schema of type {other}")


def values_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a map's values: of any key, or of keys with a pattern."""
    patterns: Mapping[str, Any] = schema.get("patternProperties", {})
    values: Mapping[str, Any] = schema.get("additionalProperties") or next(iter(patterns.values()))
    return values


def _text(name: str, schema: Mapping[str, Any]) -> str:
    if schema.get("format") == "date-time":
        return _MOMENT.isoformat()
    if "0-9a-f]{32}" in schema.get("pattern", ""):
        return _ID
    return f"example {name}".strip()
