"""Settings of the scheduler, and how they fit together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from evac_common.service.settings import ServiceSettings
from evac_scheduler.core import evacuation, reports
from evac_scheduler.core.policy import Policy

FAST: Final[Mapping[str, Any]] = {
    "sweep_s": 1.0,
    "starts_per_node": 4,
    "command_deadline_s": 20.0,
    "resend_min_s": 2.0,
    "resend_max_s": 10.0,
    "backoff_min_s": 0.5,
    "backoff_max_s": 5.0,
    "storage_retry_s": 2.0,
    "storage_alarm_s": 30.0,
    "restart_step_s": 1.0,
    "restart_max_s": 15.0,
    "stable_s": 60.0,
    "reconnect_cap_s": 1.0,
}


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="EVAC_SCHEDULER_")

    PROFILES: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fast": FAST}

    database_url: SecretStr = Field(
        default=SecretStr("postgresql:///evac"), description="Address of the database."
    )
    sweep_s: float = Field(
        default=5.0, gt=0, le=60, description="How often everything missing is derived anew."
    )
    starts_per_node: int = Field(
        default=2, ge=1, le=1000, description="Unanswered starts at once, per target node."
    )
    starts_per_pool: int = Field(
        default=8, ge=1, le=10000, description="Unanswered starts at once, per storage pool."
    )
    starts_total: int = Field(
        default=20, ge=1, le=10000, description="Unanswered starts at once, in all."
    )
    command_deadline_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="A node refuses a start that waited there for longer.",
    )
    resend_min_s: float = Field(
        default=5.0, gt=0, le=600, description="First pause before a command is sent again."
    )
    resend_max_s: float = Field(
        default=60.0, gt=0, le=3600, description="Longest pause before a command is sent again."
    )
    stop_grace_s: float = Field(
        default=30.0, ge=0, le=3600, description="Time for a guest to power off, then by force."
    )
    backoff_min_s: float = Field(
        default=2.0, gt=0, le=600, description="First pause after a failed start."
    )
    backoff_max_s: float = Field(
        default=60.0, gt=0, le=3600, description="Longest pause after a failed start."
    )
    starts_per_owner: int = Field(
        default=3, ge=1, le=100, description="Failed starts after which another node gets its turn."
    )
    storage_retry_s: float = Field(
        default=10.0, gt=0, le=600, description="Pause while an image is locked; same node."
    )
    storage_alarm_s: float = Field(
        default=120.0, gt=0, le=3600, description="Alarm each time an image was locked this long."
    )
    restart_step_s: float = Field(
        default=10.0, ge=0, le=600, description="Pause before the n-th restart in place: step n^2."
    )
    restart_max_s: float = Field(
        default=300.0, ge=0, le=3600, description="Longest pause before a restart in place."
    )
    stable_s: float = Field(
        default=600.0, gt=0, le=86400, description="A guest that ran this long restarts at once."
    )
    open_alarm_s: float = Field(
        default=300.0,
        gt=0,
        le=86400,
        description="Alarm when an instance of a dead node does not run elsewhere after this.",
    )
    open_alarm_again_s: float = Field(
        default=1800.0, gt=0, le=86400, description="Pause before that alarm is repeated."
    )
    reconnect_cap_s: float = Field(
        default=15.0, gt=0, le=300, description="Longest pause between tries to reach the broker."
    )

    @model_validator(mode="after")
    def _values_fit_together(self) -> Self:
        broken = self.broken_inequalities()
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def broken_inequalities(self) -> list[str]:
        """Each inequality that does not hold, with its numbers."""
        checks = (
            ("resend_max_s", self.resend_max_s, "resend_min_s", self.resend_min_s),
            ("backoff_max_s", self.backoff_max_s, "backoff_min_s", self.backoff_min_s),
            ("storage_alarm_s", self.storage_alarm_s, "storage_retry_s", self.storage_retry_s),
            # Else a start would be out of time before it is sent a second time.
            (
                "command_deadline_s",
                self.command_deadline_s,
                "2 resend_min_s",
                2 * self.resend_min_s,
            ),
            ("starts_total", self.starts_total, "starts_per_node", self.starts_per_node),
        )
        return [
            f"does not hold: {name} ({value:g}) >= {rule} ({least:g})"
            for name, value, rule, least in checks
            if value < least
        ]

    @property
    def policy(self) -> Policy:
        return Policy(
            limits=evacuation.Limits(
                per_node=self.starts_per_node,
                per_pool=self.starts_per_pool,
                total=self.starts_total,
            ),
            reports=reports.Policy(
                start_backoff_min_s=self.backoff_min_s,
                start_backoff_max_s=self.backoff_max_s,
                starts_per_owner=self.starts_per_owner,
                storage_retry_s=self.storage_retry_s,
                storage_alarm_s=self.storage_alarm_s,
                restart_step_s=self.restart_step_s,
                restart_max_s=self.restart_max_s,
                stable_s=self.stable_s,
            ),
            command_deadline_s=self.command_deadline_s,
            resend_min_s=self.resend_min_s,
            resend_max_s=self.resend_max_s,
            stop_grace_s=self.stop_grace_s,
            open_alarm_s=self.open_alarm_s,
            open_alarm_again_s=self.open_alarm_again_s,
        )
