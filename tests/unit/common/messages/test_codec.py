"""What is written is read again; whatever a hostile sender sends is a message or one error."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgpack  # type: ignore[import-untyped] # ships no types
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evac_common.errors import DecodeError, UnknownVersion
from evac_common.messages import codec
from evac_common.messages.catalogue import all_messages
from evac_common.messages.codec import CONTENT_TYPE, Envelope, decode, encode, unpack
from evac_common.messages.events import StormDeclared
from evac_common.messages.examples import example, example_envelope
from evac_common.messages.registry import Message
from evac_common.messages.reports import DomainSeen, Inventory
from tests.unit.common.messages import generate

ENVELOPES = st.builds(
    Envelope,
    id=st.text("0123456789abcdef", min_size=32, max_size=32),
    source=st.text("abcdefghijklmnopqrstuvwxyz0123456789/-.", min_size=1, max_size=60),
    time=generate.MOMENTS,
    traceparent=st.none() | st.just("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5)
    ),
    max_leaves=20,
)
FEW = settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("cls", all_messages(), ids=lambda cls: cls.type())
class TestEveryMessage:
    @FEW
    @given(data=st.data())
    def test_what_is_encoded_is_decoded_again(self, cls: type[Message], data: Any) -> None:
        message, envelope = data.draw(generate.messages(cls)), data.draw(ENVELOPES)
        wire = encode(message, envelope)
        assert decode(wire.headers, wire.content_type, wire.body) == (envelope, message)

    @FEW
    @given(data=st.data())
    def test_other_values_are_a_message_or_one_error(self, cls: type[Message], data: Any) -> None:
        wire = encode(example(cls), example_envelope(cls))
        body = msgpack.unpackb(wire.body)
        field = data.draw(st.sampled_from([*body, "not a field"]))
        if data.draw(st.booleans()):
            body[field] = data.draw(PLAIN)
        else:
            body.pop(field, None)
        _decodes_or_refuses(wire.headers, CONTENT_TYPE, msgpack.packb(body))


@settings(max_examples=400)
@given(data=st.data())
def test_mutated_bytes_are_a_message_or_one_error(data: Any) -> None:
    cls = data.draw(st.sampled_from(all_messages()))
    wire = encode(example(cls), example_envelope(cls))
    body = bytearray(wire.body)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(("flip", "cut", "insert"))):
            case "flip":
                body[at] = data.draw(st.integers(0, 255))
            case "cut":
                del body[at : at + data.draw(st.integers(0, 8))]
                body = body or bytearray(b"\xc0")
            case _:
                body[at:at] = data.draw(st.binary(max_size=8))
    _decodes_or_refuses(wire.headers, CONTENT_TYPE, bytes(body))


@settings(max_examples=400)
@given(body=st.binary(max_size=200))
def test_any_bytes_are_a_value_or_one_error(body: bytes) -> None:
    with suppress(DecodeError):
        unpack(body)


HEADER_VALUES = (
    st.none() | st.text(max_size=40) | st.integers() | st.binary(max_size=20) | st.datetimes()
)


@settings(max_examples=400)
@given(data=st.data())
def test_any_headers_are_a_message_or_one_error(data: Any) -> None:
    wire = encode(example(StormDeclared), example_envelope(StormDeclared))
    headers: dict[str, Any] = dict(wire.headers)
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(sorted(wire.headers)) | st.text(max_size=20))
        if data.draw(st.booleans()):
            headers[name] = data.draw(HEADER_VALUES)
        else:
            headers.pop(name, None)
    content_type = data.draw(st.just(CONTENT_TYPE) | st.none() | st.text(max_size=30))
    _decodes_or_refuses(headers, content_type, wire.body)


def _decodes_or_refuses(headers: Any, content_type: str | None, body: bytes) -> None:
    try:
        envelope, message = decode(headers, content_type, body)
    except DecodeError:
        return
    assert isinstance(message, Message)
    assert isinstance(envelope.id, str)


def _array(items: bytes, count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + items * count


HOSTILE = {
    "nested 500 deep": b"\x91" * 500 + b"\x80",
    "nested a million deep": b"\x91" * 1_000_000,
    "1 MB of empty maps": _array(_array(b"\x80", 10_000), 100),
    "1 MB of small integers": _array(_array(b"\x01", 10_000), 100),
    "an array said to have four billion items": b"\xdd\xff\xff\xff\xff",
    "a map said to have four billion items": b"\xdf\xff\xff\xff\xff",
    "a string said to have four billion bytes": b"\xdb\xff\xff\xff\xff",
    "10,001 items in one array": _array(b"\x01", 10_001),
    "a string of 256 KiB and one byte": msgpack.packb("x" * (256 * 1024 + 1)),
    "a key that is no string": msgpack.packb({1: 2}),
    "the same key twice": b"\x82\xa1a\x01\xa1a\x02",
    "an extension type": msgpack.packb(msgpack.ExtType(5, b"")),
    "a timestamp": msgpack.packb(msgpack.Timestamp(1)),
    "not a number": msgpack.packb(float("nan")),
    "infinity": msgpack.packb(float("inf")),
    "an integer of 64 bits without sign": msgpack.packb(2**64 - 1),
    "text that is not UTF-8": b"\xa2\xff\xfe",
    "nothing": b"",
    "two values": b"\x01\x02",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_body_is_refused_cheaply(body: bytes) -> None:
    began_s = time.process_time()
    with pytest.raises(DecodeError):
        unpack(body)
    assert time.process_time() - began_s < 0.5


def test_an_oversized_body_is_refused_unread() -> None:
    wire = encode(example(StormDeclared), example_envelope(StormDeclared))
    with pytest.raises(DecodeError, match="too large"):
        decode(wire.headers, CONTENT_TYPE, b"\xc1" * (codec.BODY_BYTES_MAX + 1))


@pytest.mark.parametrize("body", [b"\xc0", b"\x90", b"\x01", b"\xa1x"])
def test_a_body_that_is_no_map_is_refused(body: bytes) -> None:
    wire = encode(example(StormDeclared), example_envelope(StormDeclared))
    with pytest.raises(DecodeError, match="not a map"):
        decode(wire.headers, CONTENT_TYPE, body)


def test_unknown_versions_are_told_apart_from_unknown_messages() -> None:
    wire = encode(example(StormDeclared), example_envelope(StormDeclared))
    (name,) = [key for key, value in wire.headers.items() if value == StormDeclared.type()]
    later = {**wire.headers, name: StormDeclared.type().replace(".v1", ".v2")}
    with pytest.raises(UnknownVersion):
        decode(later, CONTENT_TYPE, wire.body)
    other = {**wire.headers, name: "io.evac.event.no.such.thing.v1"}
    with pytest.raises(DecodeError) as refused:
        decode(other, CONTENT_TYPE, wire.body)
    assert not isinstance(refused.value, UnknownVersion)


def test_unknown_fields_are_ignored() -> None:
    wire = encode(example(StormDeclared), example_envelope(StormDeclared))
    body = {**msgpack.unpackb(wire.body), "field_of_tomorrow": [1, 2, 3]}
    _, message = decode(wire.headers, CONTENT_TYPE, msgpack.packb(body))
    assert message == example(StormDeclared)


def test_a_full_inventory_is_within_the_limits() -> None:
    seen = DomainSeen(instance_id="0" * 32, epoch=1, run=1, running=True)
    inventory = Inventory(
        node_id="1" * 32, incarnation=1, term=1, sequence=1, domains=[seen] * 10_000
    )
    wire = encode(inventory, example_envelope(Inventory))
    assert decode(wire.headers, CONTENT_TYPE, wire.body)[1] == inventory


def test_what_no_reader_would_accept_is_not_sent() -> None:
    storm = example(StormDeclared)
    assert isinstance(storm, StormDeclared)
    with pytest.raises(ValueError, match="no reader"):
        encode(
            storm.model_copy(update={"why": "x" * (codec.STRING_BYTES_MAX + 1)}),
            example_envelope(StormDeclared),
        )
    with pytest.raises(ValueError, match="at most"):
        encode(
            storm.model_copy(update={"silent_nodes": ["x" * 60_000] * 20}),
            example_envelope(StormDeclared),
        )


def test_a_time_in_another_zone_is_the_same_moment() -> None:
    envelope = example_envelope(StormDeclared)
    wire = encode(example(StormDeclared), envelope)
    (name,) = [key for key in wire.headers if key.endswith("time")]
    shifted = (envelope.time + timedelta(hours=2)).replace(tzinfo=None).isoformat() + "+02:00"
    assert decode({**wire.headers, name: shifted}, CONTENT_TYPE, wire.body)[0] == envelope
