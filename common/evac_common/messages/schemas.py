"""The published form of the wire: JSON Schemas, an AsyncAPI 3 document, the wire lock, the page.

Everything here is generated from the declared messages and checked in:

    python -m evac_common.messages.schemas --write     # after a change of a message
    python -m evac_common.messages.schemas --check     # what the tests do
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from evac_common.messages.catalogue import all_messages
from evac_common.messages.codec import CONTENT_TYPE
from evac_common.messages.examples import example, values_of
from evac_common.messages.registry import Family, Message

FOLDER: Final = Path("docs/reference/messages")
LOCK: Final = FOLDER / "wire.lock.json"
ASYNCAPI: Final = FOLDER / "asyncapi.json"
PAGE: Final = Path("docs/reference/messages.md")

WHAT_TO_DO: Final = """\
the wire shape of {type} changed.
  Only a field with a default was added: readers of the old shape go on; run
      python -m evac_common.messages.schemas --write
  Anything else: leave this class alone, declare a new one with version={next}, publish both for one
  release, and name the old one in the changelog."""

_PROSE: Final = frozenset({"title", "description", "examples"})

_ROUTES: Final[Mapping[Family, tuple[str, str]]] = {
    Family.COMMAND: ("compute.{node}.{name}", "controllers to one node"),
    Family.REPORT: ("{node}.{name}", "nodes to the controllers"),
    Family.HEARTBEAT: ("{node}", "nodes to the monitors"),
    Family.EVENT: ("{name}.{subject}", "public facts, for everyone"),
    Family.REQUEST: ("{name}", "outside tools to the api"),
}


def schema_of(cls: type[Message]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a message's body."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:evac:schema:{cls.type()}",
        **cls.model_json_schema(),
        "title": cls.type(),
    }


def fingerprint(cls: type[Message]) -> str:
    """What readers depend on, as a short hash: prose is left out, shape and rules are not."""
    shape = json.dumps(_without_prose(cls.model_json_schema()), sort_keys=True)
    return hashlib.sha256(f"{cls.type()}\n{shape}".encode()).hexdigest()[:16]


def _without_prose(schema: Any, *, names: bool = False) -> Any:
    """`names`: the keys of this map are names of fields, not words of the schema language."""
    if isinstance(schema, list):
        return [_without_prose(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_prose(value, names=not names and key in {"properties", "$defs"})
        for key, value in schema.items()
        if names or key not in _PROSE
    }


def lock() -> dict[str, str]:
    """Type → fingerprint, of every message."""
    return {cls.type(): fingerprint(cls) for cls in all_messages()}


def routing_key(cls: type[Message]) -> str:
    """The pattern of a message's routing keys, with `{...}` for what varies."""
    return _ROUTES[cls.family][0].replace("{name}", cls.name)


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document: one channel per exchange, one operation per message."""
    messages = all_messages()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "evac on the bus",
            "version": "1.0.0",
            "description": "Generated from the declared messages. CloudEvents 1.0, binary mode on "
            "AMQP 0-9-1; the body is one msgpack map.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {
            family.value: {
                "address": family.exchange,
                "description": f"Topic exchange, routing key {_ROUTES[family][0]}: "
                f"{_ROUTES[family][1]}.",
                "messages": {
                    cls.type(): {"$ref": f"#/components/messages/{cls.type()}"}
                    for cls in messages
                    if cls.family is family
                },
                "bindings": {
                    "amqp": {
                        "is": "routingKey",
                        "exchange": {"name": family.exchange, "type": "topic", "durable": True},
                    }
                },
            }
            for family in Family
        },
        "operations": {cls.type(): _operation(cls) for cls in messages},
        "components": {"messages": {cls.type(): _message(cls) for cls in messages}},
    }


def _operation(cls: type[Message]) -> dict[str, Any]:
    channel = f"#/channels/{cls.family.value}"
    return {
        # AsyncAPI speaks for the application: evac sends everything but what tools ask of it.
        "action": "receive" if cls.family is Family.REQUEST else "send",
        "channel": {"$ref": channel},
        "summary": f"Written by {cls.writer}; routing key {routing_key(cls)}.",
        "messages": [{"$ref": f"{channel}/messages/{cls.type()}"}],
    }


def _message(cls: type[Message]) -> dict[str, Any]:
    return {
        "name": cls.type(),
        "title": cls.name,
        "summary": _first_line(cls),
        "contentType": CONTENT_TYPE,
        "payload": {"$ref": f"./{cls.type()}.json"},
        "examples": [{"payload": example(cls).model_dump(mode="json")}],
    }


def page() -> str:
    """The reference page, Markdown."""
    return "\n".join(_page_lines())


def _page_lines() -> Iterator[str]:
    yield "# Messages"
    yield ""
    yield (
        "Generated by `python -m evac_common.messages.schemas --write`; do not edit. The schemas and"
    )
    yield (
        "the AsyncAPI document are in [messages/](messages/), an example of each message in "
        "`tests/samples/`."
    )
    yield ""
    yield (
        "Delivery is at least once: order is not promised, a message may come twice (compare"
        " `ce-id`), and a"
    )
    yield (
        "reader ignores fields it does not know. A field with a default may be added at any time;"
        " any other change"
    )
    yield "is a new version with a type of its own."
    for family in Family:
        pattern, audience = _ROUTES[family]
        yield ""
        yield f"## {family.value.capitalize()}s"
        yield ""
        yield f"Exchange `{family.exchange}`, routing key `{pattern}`: {audience}."
        for cls in all_messages():
            if cls.family is family:
                yield from _message_lines(cls)
    yield ""


def _message_lines(cls: type[Message]) -> Iterator[str]:
    yield ""
    yield f"### `{cls.name}`"
    yield ""
    yield f"{_first_line(cls)}"
    yield ""
    yield f"Type `{cls.type()}`, routing key `{routing_key(cls)}`, written by {cls.writer}."
    yield ""
    yield "| field | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    schema = cls.model_json_schema()
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        default = "required" if name in required else f"`{json.dumps(field.get('default', []))}`"
        meaning = field.get("description", "").replace("|", "\\|")
        yield f"| `{name}` | {_type_of(field)} | {default} | {meaning} |"


def _type_of(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(_type_of(each) for each in field["anyOf"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    match field.get("type"):
        case "array":
            return f"list of {_type_of(field['items'])}"
        case "object":
            return f"map to {_type_of(values_of(field))}"
        case "string" if field.get("format") == "date-time":
            return "time (RFC 3339)"
        case other:
            return str(other)


def _first_line(cls: type[Message]) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def files() -> dict[Path, str]:
    """Every generated file, by its path in the repository."""
    found = {FOLDER / f"{cls.type()}.json": _json(schema_of(cls)) for cls in all_messages()}
    return found | {ASYNCAPI: _json(asyncapi()), LOCK: _json(lock()), PAGE: page()}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def changed_shapes(root: Path) -> list[str]:
    """What to do about each message whose shape is not the locked one; empty when all are."""
    locked = json.loads((root / LOCK).read_text())
    return [
        WHAT_TO_DO.format(type=cls.type(), next=cls.version + 1)
        for cls in all_messages()
        if locked.get(cls.type(), fingerprint(cls)) != fingerprint(cls)
    ]


def stale_files(root: Path) -> list[str]:
    """Generated files that are missing or differ, and files of messages that are no more."""
    wanted = files()
    stale = [
        str(path)
        for path, text in wanted.items()
        if not (root / path).is_file() or (root / path).read_text() != text
    ]
    left_over = {path.relative_to(root) for path in (root / FOLDER).glob("*.json")} - set(wanted)
    return sorted(stale) + sorted(f"{path} (no such message)" for path in left_over)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write or check the published form of the wire.")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository's folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true")
    what.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    root: Path = arguments.root
    if arguments.check:
        problems = [*changed_shapes(root), *(f"stale: {path}" for path in stale_files(root))]
        print("\n".join(problems) or "the published wire is up to date", file=sys.stderr)  # noqa: T201 - this is a command
        return 1 if problems else 0
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    for path in (root / FOLDER).glob("*.json"):
        path.unlink()
    for path, text in files().items():
        (root / path).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
