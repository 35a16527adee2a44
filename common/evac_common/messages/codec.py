"""Bytes to messages and back: CloudEvents attributes as headers, a msgpack map as body.

The body's limits are checked before and while it is decoded; whatever a hostile sender sends, the
answer is a message or one `DecodeError`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgpack  # type: ignore[import-untyped] # ships no types; what comes out is checked here
from cloudevents.core.bindings import rabbitmq
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.v1.event import CloudEvent
from pydantic import ValidationError

from evac_common.errors import DecodeError
from evac_common.messages.registry import Message, lookup

CONTENT_TYPE: Final = "application/msgpack"
BODY_BYTES_MAX: Final = 1024 * 1024
DEPTH_MAX: Final = 8
ITEMS_MAX: Final = 10_000  # in one array or map
ITEMS_TOTAL_MAX: Final = 200_000  # in all of a body: a full inventory has about half of it
STRING_BYTES_MAX: Final = 256 * 1024
INT_MIN, INT_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """CloudEvents attributes of one message. `id` is what receivers deduplicate by."""

    id: str
    source: str  # "/evac/<service>/<name>"
    time: datetime  # UTC; for people, never for a decision
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """A message as the bus carries it."""

    headers: Mapping[str, str]
    content_type: str
    body: bytes


class _Msgpack:
    """The CloudEvents `Format` for bodies that are msgpack already."""

    def write_data(self, data: Any, datacontenttype: str | None) -> bytes:
        return bytes(data)

    def read_data(self, body: bytes, datacontenttype: str | None, *_: Any) -> bytes:
        return body

    def get_content_type(self) -> str:
        return CONTENT_TYPE

    def write(self, event: Any) -> bytes:
        raise TypeError("structured mode is not used on this bus")

    def read(self, event_factory: Any, data: Any) -> Any:
        raise TypeError("structured mode is not used on this bus")


def encode(message: Message, envelope: Envelope) -> Wire:
    """The wire form of a message. Raises ValueError above the limits a reader enforces."""
    body: bytes = msgpack.packb(message.model_dump(mode="json"), use_bin_type=True)
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"{message.type()}: body of {len(body)} bytes, at most {BODY_BYTES_MAX}")
    if len(body) > ITEMS_MAX:  # a smaller one cannot break a limit of its readers
        try:
            unpack(body)
        except DecodeError as error:
            raise ValueError(f"{message.type()}: no reader would accept it: {error}") from error
    attributes: dict[str, Any] = {
        "id": envelope.id,
        "source": envelope.source,
        "type": message.type(),
        "specversion": "1.0",
        "time": envelope.time,
        "datacontenttype": CONTENT_TYPE,
        "dataschema": f"urn:evac:schema:{message.type()}",
    }
    subject = message.subject()
    if subject:
        attributes["subject"] = subject
    wire = rabbitmq.to_binary(CloudEvent(attributes, body), _Msgpack())
    headers = dict(wire.headers)
    if envelope.traceparent:
        headers["traceparent"] = envelope.traceparent
    return Wire(headers=headers, content_type=CONTENT_TYPE, body=wire.body)


def decode(
    headers: Mapping[str, Any], content_type: str | None, body: bytes
) -> tuple[Envelope, Message]:
    """The message behind bytes from the bus.

    Raises DecodeError for everything that is not a message of a known version within the limits.
    """
    if content_type != CONTENT_TYPE:
        raise DecodeError(
            "content type is not application/msgpack", content_type=str(content_type)[:80]
        )
    if len(body) > BODY_BYTES_MAX:
        raise DecodeError("body is too large", bytes=len(body), bytes_max=BODY_BYTES_MAX)
    envelope, type_ = _envelope(headers, content_type)
    cls = lookup(type_)
    value = unpack(body)
    if not isinstance(value, dict):
        raise DecodeError("body is not a map", type=type_)
    try:
        return envelope, cls.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DecodeError(f"{cls.type()}: {where}: {first['msg']}") from error


def unpack(body: bytes) -> Any:
    """The plain value of a msgpack body, within the limits. Raises DecodeError.

    Items are counted while they are unpacked: a small body of very many empty maps ends early.
    """
    left = ITEMS_TOTAL_MAX

    def count(items: int) -> None:
        nonlocal left
        left -= items + 1
        if left < 0:
            raise DecodeError("body has too many items", items_max=ITEMS_TOTAL_MAX)

    def as_list(items: list[Any]) -> list[Any]:
        count(len(items))
        return items

    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        count(len(pairs))
        value = dict(pairs)
        if len(value) != len(pairs):
            raise DecodeError("a map has a key twice")
        return value

    try:
        value = msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            list_hook=as_list,
            object_pairs_hook=as_dict,
            max_str_len=STRING_BYTES_MAX,
            max_bin_len=STRING_BYTES_MAX,
            max_array_len=ITEMS_MAX,
            max_map_len=ITEMS_MAX,
            max_ext_len=0,
        )
    except DecodeError:
        raise
    except Exception as error:  # ValueError, TypeError, OverflowError, StackError: all mean this
        raise DecodeError(f"body is not msgpack: {type(error).__name__}") from error
    _check(value, DEPTH_MAX)
    return value


def _check(value: Any, depth: int) -> None:
    if depth < 0:
        raise DecodeError("body is nested too deeply", depth_max=DEPTH_MAX)
    match value:
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise DecodeError("a map key is not a string")
                _check(item, depth - 1)
        case list():
            for item in value:
                _check(item, depth - 1)
        case bool() | str() | bytes() | None:
            pass
        case int():
            if not INT_MIN <= value <= INT_MAX:
                raise DecodeError("an integer does not fit 64 bits")
        case float():
            if not math.isfinite(value):
                raise DecodeError("a number is not finite")
        case _:
            raise DecodeError(f"a value of type {type(value).__name__} has no place in a message")


def _envelope(headers: Mapping[str, Any], content_type: str) -> tuple[Envelope, str]:
    texts = {str(key): value for key, value in headers.items() if isinstance(value, str)}
    try:
        event = rabbitmq.from_binary(
            rabbitmq.RabbitMQMessage(headers=texts, content_type=content_type, body=b""),
            _Msgpack(),
            CloudEvent,
        )
        attributes = event.get_attributes()
        time = attributes["time"]
        if not isinstance(time, datetime) or time.tzinfo is None:
            raise DecodeError("ce-time is not a time with a zone")
        return (
            Envelope(
                id=str(attributes["id"]),
                source=str(attributes["source"]),
                time=time,
                traceparent=texts.get("traceparent"),
            ),
            str(attributes["type"]),
        )
    except (BaseCloudEventException, ValueError, KeyError, OverflowError) as error:
        raise DecodeError(f"headers are not CloudEvents 1.0: {type(error).__name__}") from error
