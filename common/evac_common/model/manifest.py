"""What an operator declares: nodes, pools and instances, as `evac apply -f` takes them.

One document has up to three sections, each a map from name to fields; a scenario of the lab is the
same document with more keys:

    nodes: {n1: {vcpus: 32, memory_mib: 131072, labels: {zone: a}}}
    pools: {shared: {kind: nfs, source: /srv/vm, nodes: [n1]}}
    instances: {web-1: {vcpus: 2, memory_mib: 2048, disks: [{pool: shared}]}}

Unknown fields are refused. These models check each value; what needs the database (does the pool
exist, is the name taken) is the api's business.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from evac_common.model.identity import Name
from evac_common.model.states import (
    POWER_PORTS,
    LockScope,
    PoolKind,
    PowerKind,
    RunStrategy,
)

# Label keys and values: what a shell, a YAML file and a table print without quoting.
LabelKey = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$")
]
LabelValue = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")
]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=64)]
# No path tricks: a volume is a file name inside its pool.
Volume = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Bridge = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$")]
Mac = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]

VCPUS_MAX = 1024
MEMORY_MIB_MAX = 64 * 1024 * 1024  # 64 TiB


class Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_max_length=4096)


class Power(Declared):
    """How to reach the BMC of a node. The password never leaves the api but encrypted at rest."""

    kind: PowerKind
    address: str = Field(
        min_length=1, max_length=255, description="Host name or IP address of the BMC."
    )
    port: int = Field(
        default=POWER_PORTS[PowerKind.IPMI],
        ge=1,
        le=65535,
        description="UDP for ipmi, TCP for redfish. Unset: 623 for ipmi, 443 for redfish.",
    )
    username: str = Field(default="", max_length=64)
    password: SecretStr = SecretStr("")
    system: str | None = Field(
        default=None,
        max_length=255,
        pattern=r"^/redfish/v1/Systems/[A-Za-z0-9._~-]+$",
        description="Redfish: the node's system, where its BMC has several. Unset: the only one.",
    )
    tls_sha256: str | None = Field(
        default=None,
        description="Redfish: SHA-256 fingerprint of the BMC's certificate, which is trusted then "
        "and no other. Unset: it must be valid for the address, by what the monitor's machine "
        "trusts.",
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_port(cls, given: object) -> object:
        if not isinstance(given, dict) or "port" in given:
            return given
        ports = [port for kind, port in POWER_PORTS.items() if kind == given.get("kind")]
        return given | {"port": ports[0]} if ports else given

    @field_validator("tls_sha256")
    @classmethod
    def _is_a_fingerprint(cls, written: str | None) -> str | None:
        """As 64 lower case digits, however it was written."""
        if written is None:
            return None
        digits = written.replace(":", "").lower()
        if not re.fullmatch("[0-9a-f]{64}", digits):
            raise ValueError("a SHA-256 fingerprint has 64 hexadecimal digits, with colons or not")
        return digits

    @field_validator("system", "tls_sha256")
    @classmethod
    def _belongs_to_redfish(cls, written: str | None, info: ValidationInfo) -> str | None:
        if written is not None and info.data.get("kind") is PowerKind.IPMI:
            raise ValueError("is for redfish, and the kind is ipmi")
        return written


class NodeManifest(Declared):
    vcpus: int = Field(
        ge=1, le=VCPUS_MAX, description="Capacity offered to instances, in virtual CPUs."
    )
    memory_mib: int = Field(
        ge=64, le=MEMORY_MIB_MAX, description="Capacity offered to instances, MiB."
    )
    labels: Labels = Field(default_factory=dict)
    bridges: list[Bridge] = Field(default_factory=list, max_length=256)
    power: Power | None = Field(
        default=None, description="None: only an operator can prove it dead."
    )
    dmi_uuid: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        description="DMI product UUID of the hardware; unset: the first registration sets it.",
    )


class PoolManifest(Declared):
    kind: PoolKind
    source: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[A-Za-z0-9/_.:@=,-]+$",
        description="Directory (dir, nfs), volume group, RBD pool, or host:port (nbd).",
    )
    lock_scope: LockScope = LockScope.NONE
    nodes: list[Name] = Field(
        min_length=1, max_length=10000, description="Nodes that reach this pool."
    )


class Disk(Declared):
    pool: Name
    volume: Volume | None = Field(default=None, description="Unset: `<instance>-<index>.<format>`.")
    format: Literal["raw", "qcow2"] = "raw"
    shareable: bool = Field(
        default=False,
        description="No image lock. The lab uses it, so that nothing hides a double run.",
    )


class Nic(Declared):
    bridge: Bridge
    mac: Mac | None = None


class InstanceManifest(Declared):
    vcpus: int = Field(ge=1, le=VCPUS_MAX)
    memory_mib: int = Field(ge=2, le=MEMORY_MIB_MAX)
    run_strategy: RunStrategy = RunStrategy.ALWAYS
    priority: int = Field(default=3, ge=1, le=5, description="1 is recovered first.")
    labels: Labels = Field(default_factory=dict)
    node_selector: Labels = Field(default_factory=dict, description="Labels a node must carry.")
    disks: list[Disk] = Field(default_factory=list, max_length=64)
    nics: list[Nic] = Field(default_factory=list, max_length=32)

    @model_validator(mode="after")
    def _volumes_are_distinct(self) -> Self:
        seen = [(disk.pool, disk.volume) for disk in self.disks]
        if len(set(seen)) != len(seen):
            raise ValueError("disks: the same volume of the same pool is given twice")
        return self


class ApplyDocument(Declared):
    """Many resources in one document; applied in one transaction."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nodes: dict[Name, NodeManifest] = Field(default_factory=dict, max_length=10000)
    pools: dict[Name, PoolManifest] = Field(default_factory=dict, max_length=10000)
    instances: dict[Name, InstanceManifest] = Field(default_factory=dict, max_length=100000)


def volume_name(instance: str, index: int, disk: Disk) -> str:
    """The file, logical volume, image or export name of an instance's disk inside its pool."""
    return disk.volume or f"{instance}-{index}.{disk.format}"
