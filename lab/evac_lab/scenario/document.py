"""The fields of a scenario: the manifests of `evac apply -f`, plus what only a lab can do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from evac_common.model.identity import Name
from evac_common.model.manifest import (
    InstanceManifest,
    NodeManifest,
    PoolManifest,
    Power,
)
from evac_common.model.states import PowerKind
from evac_lab.scenario.timeline import REPLICAS_MAX

LAB_SOURCE = "/srv/evac-lab"  # where a lab's nodes see the shared folder


class ScenarioNode(NodeManifest):
    """A node, and whether it is switched on at the start. `power` may be the kind alone."""

    power: PowerKind | Power | None = None  # type: ignore[assignment] # wider than the manifest, on purpose
    running: bool = True

    def manifest(self) -> dict[str, Any]:
        """The part that the api takes; the lab adds the BMC's address."""
        return self.model_dump(mode="json", exclude={"running", "power"}, exclude_unset=True)


class ScenarioPool(PoolManifest):
    source: str = LAB_SOURCE

    def manifest(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class ScenarioInstance(InstanceManifest):
    """An instance, and the node of its first epoch (unset: the scheduler chooses)."""

    on: Name | None = None

    def manifest(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"on"}, exclude_unset=True)


class Replicas(BaseModel):
    """How many processes of each controller run side by side; `monitor-2` names one of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api: int = Field(default=1, ge=1, le=REPLICAS_MAX)
    scheduler: int = Field(default=1, ge=1, le=REPLICAS_MAX)
    monitor: int = Field(default=1, ge=1, le=REPLICAS_MAX)

    def of(self, service: str) -> int:
        """By the service's name. Raises KeyError for a service that has no replicas."""
        return {"api": self.api, "scheduler": self.scheduler, "monitor": self.monitor}[service]


class ScenarioDocument(BaseModel):
    """The whole file, before the time line and the expectations are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    profile: Literal["default", "fast"] = "default"
    settings: dict[str, bool | int | float | str] = Field(default_factory=dict)
    replicas: Replicas = Field(default_factory=Replicas)
    nodes: dict[Name, ScenarioNode] = Field(min_length=1, max_length=1000)
    pools: dict[Name, ScenarioPool] = Field(default_factory=dict)
    instances: dict[Name, ScenarioInstance] = Field(default_factory=dict)
    timeline: list[str] = Field(min_length=1)
    expect: list[str] = Field(default_factory=list)
