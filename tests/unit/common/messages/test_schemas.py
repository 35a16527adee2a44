"""The published form of the wire is what the declared messages say, and their shapes are locked."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from pydantic import Field

from evac_common.messages import schemas
from evac_common.messages.catalogue import all_messages
from evac_common.messages.registry import Family, Message

ROOT = Path(__file__).resolve().parents[4]


class _Undeclared(Message, family=Family.EVENT, writer="api"):
    """A message outside the registry: no name is given."""

    name = "test.undeclared"
    version = 1

    title: str = Field(description="A field with the name of a word of JSON Schema.")
    count: int = Field(ge=0, description="How many.")


class _Reworded(Message, family=Family.EVENT, writer="api"):
    """The same in other words."""

    name = "test.undeclared"
    version = 1

    title: str = Field(description="Other words.", examples=["x"])
    count: int = Field(ge=0)


class _Stricter(Message, family=Family.EVENT, writer="api"):
    name = "test.undeclared"
    version = 1

    title: str
    count: int = Field(ge=1)


class _Shorter(Message, family=Family.EVENT, writer="api"):
    name = "test.undeclared"
    version = 1

    count: int = Field(ge=0)


def test_no_shape_changed_without_a_decision() -> None:
    changed = schemas.changed_shapes(ROOT)
    assert not changed, "\n".join(changed)


def test_generated_files_are_up_to_date() -> None:
    stale = schemas.stale_files(ROOT)
    assert not stale, f"run `python -m evac_common.messages.schemas --write`; stale: {stale}"


def test_words_do_not_change_a_fingerprint_and_rules_do() -> None:
    assert schemas.fingerprint(_Reworded) == schemas.fingerprint(_Undeclared)
    assert schemas.fingerprint(_Stricter) != schemas.fingerprint(_Undeclared)
    assert schemas.fingerprint(_Shorter) != schemas.fingerprint(_Undeclared)


def test_a_changed_shape_is_told_with_what_to_do(tmp_path: Path) -> None:
    lock = schemas.lock()
    first = all_messages()[0].type()
    (tmp_path / schemas.FOLDER).mkdir(parents=True)
    (tmp_path / schemas.LOCK).write_text(json.dumps(lock | {first: "0" * 16}))
    (told,) = schemas.changed_shapes(tmp_path)
    assert first in told
    assert "version=2" in told
    assert "--write" in told


def test_every_message_and_field_is_described() -> None:
    bare = [cls.type() for cls in all_messages() if not (cls.__doc__ or "").strip()]
    assert not bare


def test_the_asyncapi_document_is_valid() -> None:
    with warnings.catch_warnings():
        # The library's own classes shadow attributes of pydantic's.
        warnings.simplefilter("ignore", UserWarning)
        from asyncapi3 import AsyncAPI3  # type: ignore[import-untyped] # ships no types

    document = AsyncAPI3.model_validate(json.loads((ROOT / schemas.ASYNCAPI).read_text()))
    assert document.channels is not None
    assert set(document.channels.root) == {family.value for family in Family}
    assert document.operations is not None
    assert set(document.operations.root) == {schemas.key_of(cls) for cls in all_messages()}


def test_every_reference_in_the_asyncapi_document_leads_somewhere() -> None:
    document = json.loads((ROOT / schemas.ASYNCAPI).read_text())
    references: list[str] = []

    def collect(value: object) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                references.append(value["$ref"])
            for each in value.values():
                collect(each)
        elif isinstance(value, list):
            for each in value:
                collect(each)

    collect(document)
    assert references
    for reference in references:
        if reference.startswith("#/"):
            target = document
            for word in reference.removeprefix("#/").split("/"):
                target = target[word]
        else:
            assert (ROOT / schemas.FOLDER / reference).is_file(), reference
