"""YAML that remembers its lines: manifests and scenarios are read with it, so errors can say where.

Duplicate keys are refused (YAML itself would silently keep the last one), as are tags that build
objects. Values are the plain ones of JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from evac_common.errors import EvacError

Path = tuple[str | int, ...]


class DocumentInvalid(EvacError):
    """A YAML document cannot be accepted."""

    code = "document.invalid"
    expected = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A YAML document: its value, and the line (from 1) on which every part of it begins."""

    source: str
    value: Any
    lines: dict[Path, int]

    def line(self, path: Sequence[str | int]) -> int:
        """The line of a part, or of the nearest enclosing part that has one."""
        parts = tuple(path)
        while parts not in self.lines and parts:
            parts = parts[:-1]
        return self.lines.get(parts, 1)

    def where(self, path: Sequence[str | int]) -> str:
        """`file.yaml:12: instances.web-1.vcpus`."""
        return f"{self.source}:{self.line(path)}: {dotted(path)}"


def dotted(path: Sequence[str | int]) -> str:
    """`instances.web-1.disks[0].pool`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the document"


def parse(text: str, source: str) -> Document:
    """Read one document. Raises DocumentInvalid with source and line."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 1
        raise DocumentInvalid(f"{source}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise DocumentInvalid(f"{source}: not YAML: {error}") from error
    lines: dict[Path, int] = {}
    value = None if root is None else _build(root, (), source, lines)
    return Document(source=source, value=value, lines=lines)


def _build(node: yaml.Node, path: Path, source: str, lines: dict[Path, int]) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if len(path) > 32:
        raise DocumentInvalid(f"{source}:{line}: nested more than 32 deep")
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _build(key_node, (*path, "<key>"), source, lines)
            at = key_node.start_mark.line + 1
            # YAML 1.1 reads bare on, off, yes, no as booleans; a key can only be meant as a word.
            key = key_node.value if isinstance(key, bool) else key
            if not isinstance(key, str):
                raise DocumentInvalid(
                    f"{source}:{at}: {dotted(path)}: the key {key!r} is not a word"
                )
            if key in result:
                raise DocumentInvalid(f"{source}:{at}: {dotted((*path, key))}: is given twice")
            lines[(*path, key)] = at
            result[key] = _build(value_node, (*path, key), source, lines)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [
            _build(item, (*path, index), source, lines) for index, item in enumerate(node.value)
        ]
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node)
    except yaml.YAMLError as error:
        raise DocumentInvalid(f"{source}:{line}: {dotted(path)}: {error}") from error
    finally:
        loader.dispose()
    if value is not None and not isinstance(value, bool | int | float | str):
        raise DocumentInvalid(
            f"{source}:{line}: {dotted(path)}: a {type(value).__name__} has no place here; quote it"
        )
    return value
