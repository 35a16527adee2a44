"""What the api has stored about nodes, pools and instances, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from evac_common.model.manifest import InstanceManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    id: str
    name: str
    vcpus: int
    memory_mib: int
    labels: Mapping[str, str]
    bridges: tuple[str, ...]
    dmi_uuid: str | None
    power: Mapping[str, Any] | None  # kind, address, port, username
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRecord:
    id: str
    name: str
    kind: str
    source: str
    lock_scope: str
    nodes: tuple[str, ...]  # node ids
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    id: str
    name: str
    manifest: InstanceManifest
    generation: int
    deleted_at: datetime | None
