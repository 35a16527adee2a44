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

    power: PowerKind | Power | None = Field(  # type: ignore[assignment] # wider than the manifest
        default=None,
        description="Its BMC: `ipmi` or `redfish`, and the lab makes one and knows its address. "
        "Unset: it has none, and only a person can prove the node dead.",
    )
    running: bool = Field(
        default=True, description="Switched on at the start; else it is off until `power NODE on`."
    )

    @property
    def power_kind(self) -> PowerKind | None:
        return self.power.kind if isinstance(self.power, Power) else self.power

    def manifest(self) -> dict[str, Any]:
        """The part that the api takes; the lab adds the BMC's address."""
        return self.model_dump(mode="json", exclude={"running", "power"}, exclude_unset=True)


class ScenarioPool(PoolManifest):
    source: str = Field(
        default=LAB_SOURCE,
        min_length=1,
        max_length=1024,
        pattern=r"^[A-Za-z0-9/_.:@=,-]+$",
        description="Where the nodes see it. The lab has one shared folder: leave it unset.",
    )

    def manifest(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class ScenarioInstance(InstanceManifest):
    """An instance, and the node of its first epoch (unset: the scheduler chooses)."""

    on: Name | None = Field(
        default=None,
        description="The node on which it runs at second 0. Unset: the scheduler chooses. It says "
        "nothing about later.",
    )

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

    name: Name = Field(description="The scenario's name; in a directory, the directory's.")
    profile: Literal["default", "fast"] = Field(
        default="default",
        description="Timings of all services: `default` as in production, `fast` for labs in real "
        "time.",
    )
    seed: int = Field(
        default=1, ge=0, description="The seed of its simulated run, unless another is asked for."
    )
    settings: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="Any setting of any service, `SERVICE.FIELD: value` (docs/reference/settings.md"
        "). Values that do not fit together are refused.",
    )
    replicas: Replicas = Field(
        default_factory=Replicas,
        description="How many processes of each controller run, 1 to 3: `{monitor: 2}`.",
    )
    witnesses: frozenset[Literal["second_channel", "peers"]] = Field(
        default=frozenset(),
        description="What the monitors may ask about a silent node beside its heartbeats: "
        "`second_channel` (a slot on shared storage), `peers` (what other nodes reach). Simulated "
        "only.",
    )
    nodes: dict[Name, ScenarioNode] = Field(
        min_length=1, max_length=1000, description="Nodes by name."
    )
    pools: dict[Name, ScenarioPool] = Field(
        default_factory=dict, description="Storage pools by name."
    )
    instances: dict[Name, ScenarioInstance] = Field(
        default_factory=dict, description="Instances by name."
    )
    timeline: list[str] = Field(
        min_length=1, description="What happens, a line each, in order of time; the last is `end`."
    )
    expect: list[str] = Field(
        default_factory=list, description="What must hold at the end, a line each."
    )
