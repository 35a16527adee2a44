"""`Message`, the base of everything on the bus, and the registry of what has been declared.

    class Down(Event, name="node.down", version=1): ...

registers the class under `io.evac.event.node.down.v1`; a second class of that type is refused at
import.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict

from evac_common.errors import DecodeError, UnknownVersion

TYPE_PREFIX: Final = "io.evac"


class Family(StrEnum):
    """A family has one exchange, `evac.<family>`."""

    COMMAND = "command"
    REPORT = "report"
    HEARTBEAT = "heartbeat"
    EVENT = "event"
    REQUEST = "request"

    @property
    def exchange(self) -> str:
        return f"evac.{self.value}"


class Part(BaseModel):
    """A piece of messages: fields that belong together and recur. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Message(Part):
    """One kind of message. Readers ignore unknown fields and refuse unknown versions."""

    family: ClassVar[Family]
    name: ClassVar[str]
    version: ClassVar[int]
    writer: ClassVar[str]  # the one service (or "tools") that publishes it

    @classmethod
    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        version: int = 1,
        family: Family | None = None,
        writer: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        if family is not None:
            cls.family = family
        if writer is not None:
            cls.writer = writer
        if name is None:
            return  # a family's base class, not a message
        cls.name, cls.version = name, version
        key = cls.type()
        if key in _REGISTRY:
            raise TypeError(
                f"{key} is declared twice: {_REGISTRY[key].__qualname__} and {cls.__qualname__}"
            )
        _REGISTRY[key] = cls

    @classmethod
    def type(cls) -> str:
        """The CloudEvents type: `io.evac.<family>.<name>.v<version>`."""
        return f"{TYPE_PREFIX}.{cls.family.value}.{cls.name}.v{cls.version}"

    def routing_key(self) -> str:
        raise NotImplementedError(f"{type(self).__name__} declares no routing key")

    def subject(self) -> str | None:
        """The CloudEvents subject: the id of what the message is about."""
        return None


_REGISTRY: Final[dict[str, type[Message]]] = {}


def declared(family: Family | None = None) -> tuple[type[Message], ...]:
    """Every declared message, ordered by type."""
    return tuple(
        cls for _, cls in sorted(_REGISTRY.items()) if family is None or cls.family is family
    )


def lookup(type_: str) -> type[Message]:
    """The class of a CloudEvents type. Raises `UnknownVersion` or `DecodeError`."""
    found = _REGISTRY.get(type_)
    if found is not None:
        return found
    stem, _, version = type_.rpartition(".v")
    if any(known.rpartition(".v")[0] == stem for known in _REGISTRY):
        raise UnknownVersion(f"{stem}: version {version} is not known here", type=type_)
    raise DecodeError("unknown message type", type=type_)
