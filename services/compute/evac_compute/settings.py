"""Every knob of the daemon. What is secret, or one node's own, stands in node.toml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from evac_common.service.settings import ServiceSettings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="EVAC_COMPUTE_")

    PROFILES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {
            "heartbeat_interval_s": 0.5,
            "register_interval_s": 1.0,
            "inventory_interval_s": 2.0,
            "reregister_after_s": 3.0,
            "reconnect_max_s": 1.0,
            "hypervisor_retry_s": 0.5,
            "hypervisor_reconnect_max_s": 1.0,
        }
    }

    node_file: Path = Field(
        default=Path("/etc/evac/node.toml"),
        description="Identity and broker account of this node, as `evac node enrol` printed it.",
    )
    state_dir: Path = Field(
        default=Path("/var/lib/evac-compute"), description="Directory of the journal."
    )
    boot_id_file: Path = Field(
        default=Path("/proc/sys/kernel/random/boot_id"),
        description="File whose content changes with every boot of the machine.",
    )
    dmi_dir: Path = Field(
        default=Path("/sys/class/dmi/id"), description="Folder with the machine's product_uuid."
    )
    hypervisor: str = Field(
        default="qemu:///system",
        max_length=1024,
        description="libvirt URI, or `simulated:PATH` for the socket of a simulated hypervisor.",
    )
    virt_type: Literal["kvm", "qemu"] = Field(
        default="kvm", description="Acceleration of the domains; `qemu` is emulation, for labs."
    )
    disk_bus: Literal["virtio", "sata", "ide", "scsi"] = Field(
        default="virtio", description="Bus on which guests see their disks."
    )
    machine: str = Field(
        default="", max_length=64, description="QEMU machine type; unset: libvirt's default."
    )
    disk_cache: Literal["none", "writeback", "writethrough", "directsync", "unsafe"] = Field(
        default="none",
        description="Host cache of the disks; all but `none` and `directsync` may lose a guest's "
        "writes when its node loses its power.",
    )
    serial_dir: Path | None = Field(
        default=None,
        description="Directory of sockets and logs of the guests' serial consoles; unset: a pty.",
    )

    heartbeat_interval_s: float = Field(default=2.0, gt=0, le=60)
    register_interval_s: float = Field(
        default=5.0,
        gt=0,
        le=300,
        description="Pause between registrations until a session arrives.",
    )
    inventory_interval_s: float = Field(default=10.0, gt=0, le=3600)
    report_retry_s: float = Field(
        default=1.0, gt=0, le=60, description="Pause before unconfirmed reports are sent again."
    )
    reregister_after_s: float = Field(
        default=15.0,
        gt=0,
        le=3600,
        description="A daemon whose heartbeats could not be sent for this long registers again; "
        "below the monitor's fence_after_s, so that a node that was given up always asks.",
    )
    reconnect_max_s: float = Field(
        default=15.0,
        gt=0,
        le=300,
        description="Longest pause between attempts to reach the broker.",
    )
    prefetch: int = Field(default=4, ge=1, le=1000)
    actions_max: int = Field(
        default=32, ge=1, le=1000, description="Commands carried out at the same time."
    )
    call_time_limit_s: float = Field(
        default=10.0, gt=0, le=600, description="Time limit of one call to the hypervisor."
    )
    start_time_limit_s: float = Field(
        default=60.0, gt=0, le=3600, description="Time limit of a start."
    )
    hypervisor_threads: int = Field(default=8, ge=1, le=64)
    hypervisor_retry_s: float = Field(
        default=2.0,
        gt=0,
        le=60,
        description="Pause before a stop of unknown outcome is tried again.",
    )
    hypervisor_away_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="A hypervisor that does not answer for this long is told in the heartbeats, "
        "and the node becomes degraded.",
    )
    hypervisor_reconnect_max_s: float = Field(default=10.0, gt=0, le=300)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.reregister_after_s < 3 * self.heartbeat_interval_s:
            raise ValueError(
                f"reregister_after_s ({self.reregister_after_s}) must be at least 3 heartbeats "
                f"({3 * self.heartbeat_interval_s}): one lost heartbeat is no outage"
            )
        return self

    @property
    def simulated_socket(self) -> Path | None:
        """The socket of the simulated hypervisor, if that is what is wanted."""
        kind, _, path = self.hypervisor.partition(":")
        return Path(path) if kind == "simulated" else None
