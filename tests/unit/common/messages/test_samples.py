"""Every message has a checked-in sample, which is the documented example and is still readable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped] # ships no types
import pytest

from evac_common.messages.catalogue import all_messages
from evac_common.messages.codec import CONTENT_TYPE, decode, encode
from evac_common.messages.examples import example, example_envelope
from evac_common.messages.registry import Message

ROOT = Path(__file__).resolve().parents[4]
SAMPLES = ROOT / "tests" / "samples"

HOW = "run `python tests/samples/write.py`: it writes missing samples and never changes one"


def _sample(cls: type[Message]) -> Any:
    path = SAMPLES / f"{cls.type()}.json"
    assert path.is_file(), f"{cls.type()} has no sample: {HOW}"
    return json.loads(path.read_text())


@pytest.mark.parametrize("cls", all_messages(), ids=lambda cls: cls.type())
class TestSamples:
    def test_what_was_written_then_is_read_today(self, cls: type[Message]) -> None:
        sample = _sample(cls)
        body = msgpack.packb(sample["body"])
        envelope, message = decode(sample["headers"], CONTENT_TYPE, body)
        assert type(message) is cls
        assert envelope == example_envelope(cls)
        shown = message.model_dump(mode="json")
        assert {name: shown[name] for name in sample["body"]} == sample["body"]

    def test_what_is_written_today_has_the_same_headers(self, cls: type[Message]) -> None:
        assert dict(encode(example(cls), example_envelope(cls)).headers) == _sample(cls)["headers"]


def test_no_sample_is_left_of_a_message_that_is_no_more() -> None:
    known = {f"{cls.type()}.json" for cls in all_messages()}
    assert {path.name for path in SAMPLES.glob("*.json")} == known, HOW
