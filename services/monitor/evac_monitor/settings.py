"""Settings of the monitor, and the inequalities between its times."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from evac_common.errors import SettingsRefused
from evac_common.service.secrets import KEY_NAME
from evac_common.service.settings import ServiceSettings
from evac_monitor.core import fencing, gate, suspicion
from evac_monitor.core.gate import OnIsolated

FAST: Final[Mapping[str, Any]] = {
    "heartbeat_interval_s": 0.5,
    "suspect_after_s": 2.0,
    "fence_after_s": 6.0,
    "hold_off_s": 3.0,
    "blast_window_s": 10.0,
    "fence_interval_s": 1.0,
    "tick_s": 0.2,
    "sweep_s": 1.0,
    "reconnect_cap_s": 1.0,
    "service_start_s": 2.0,
    "resume_after_s": 15.0,
    "retry_blocked_s": 10.0,
    "witness_every_s": 1.0,
    "power_reading_every_s": 10.0,
    "not_executing_after_s": 30.0,
    "remind_disarmed_s": 10.0,
}


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="EVAC_MONITOR_")

    PROFILES: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fast": FAST}

    database_url: SecretStr = Field(
        default=SecretStr("postgresql:///evac"), description="Address of the database."
    )
    secret_key_file: Path | None = Field(
        default=None, description="File with the key of stored BMC passwords (evac_secret_key)."
    )
    heartbeat_interval_s: float = Field(
        default=2.0, gt=0, le=60, description="Must be the nodes' own heartbeat interval."
    )
    suspect_after_s: float = Field(
        default=8.0, gt=0, le=600, description="Silence after which a node is suspect."
    )
    fence_after_s: float = Field(
        default=20.0, gt=0, le=3600, description="Silence after which it may be cut off."
    )
    hold_off_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="No automatic fencing for this long after any discontinuity.",
    )
    blast_radius: float = Field(
        default=0.34, gt=0, le=1, description="Share of the nodes that may be dead at once."
    )
    blast_window_s: float = Field(
        default=3600.0, gt=0, le=86400, description="How long a fencing counts as recent."
    )
    fence_interval_s: float = Field(
        default=10.0, ge=0, le=3600, description="Least time between two automatic fencings."
    )
    fence_parallel: int = Field(
        default=2, ge=1, le=64, description="Fencings in progress above which none begins."
    )
    power_try_s: float = Field(
        default=10.0, gt=0, le=300, description="Time limit of one try to cut the power."
    )
    power_call_s: float = Field(
        default=6.0,
        gt=0,
        le=300,
        description="Time limit of one question or order to a BMC, login included; slow BMCs need "
        "more, and then longer tries.",
    )
    power_tries: int = Field(
        default=3, ge=1, le=20, description="Failed tries after which the node is blocked."
    )
    power_read_gap_s: float = Field(
        default=1.0, ge=1.0, le=60, description="Between the two readings of Off."
    )
    resume_after_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="A try without progress for this long is taken over.",
    )
    retry_blocked_s: float = Field(
        default=60.0, gt=0, le=3600, description="Between tries while a node is blocked."
    )
    alarm_blocked_s: float = Field(
        default=300.0, gt=0, le=86400, description="How often a blocked node is alarmed again."
    )
    on_isolated: OnIsolated = Field(
        default=OnIsolated.WAIT,
        description="A silent node that a second channel shows alive: `wait` leaves it running and "
        "makes it degraded, `fence` treats it as any silent node.",
    )
    witness_every_s: float = Field(
        default=5.0,
        gt=0,
        le=600,
        description="How often the second channel and peers are asked about a silent node.",
    )
    witness_limit_s: float = Field(
        default=3.0, gt=0, le=60, description="Time limit of one such question."
    )
    power_reading_every_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="How often the BMC of an overdue node is asked whether it has power.",
    )
    not_executing_after_s: float = Field(
        default=300.0,
        gt=0,
        le=86400,
        description="A node that leaves commands unanswered for this long is degraded.",
    )
    remind_disarmed_s: float = Field(
        default=300.0,
        gt=0,
        le=86400,
        description="How often it is said that automatic fencing is still disarmed.",
    )
    tick_s: float = Field(default=0.5, gt=0, le=5, description="How often silence is judged.")
    rows_believed_s: float = Field(
        default=2.0,
        ge=0,
        le=5,
        description="While all is well the nodes' rows are read once in this time instead of at "
        "every tick; 0: at every tick.",
    )
    sweep_s: float = Field(default=5.0, gt=0, le=60, description="How often everything is re-read.")
    reconnect_cap_s: float = Field(
        default=15.0, gt=0, le=300, description="Longest pause of any service between reconnects."
    )
    service_start_s: float = Field(
        default=10.0, gt=0, le=300, description="Time in which any service starts."
    )

    @model_validator(mode="after")
    def _times_fit_together(self) -> Self:
        broken = self.broken_inequalities()
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def broken_inequalities(self) -> list[str]:
        """Each inequality that does not hold, with its numbers."""
        # Jitter of half a heartbeat: 1 s at the default interval of 2 s.
        suspect_s = 3.5 * self.heartbeat_interval_s
        checks = (
            ("suspect_after_s", self.suspect_after_s, "3 heartbeat_interval_s + jitter", suspect_s),
            ("fence_after_s", self.fence_after_s, "2 suspect_after_s", 2 * self.suspect_after_s),
            ("heartbeat_interval_s", self.heartbeat_interval_s, "tick_s", self.tick_s),
            ("power_try_s", self.power_try_s, "2 power_read_gap_s", 2 * self.power_read_gap_s),
            ("resume_after_s", self.resume_after_s, "1.5 power_try_s", 1.5 * self.power_try_s),
            # What one monitor hears must reach the others before they give the node up.
            ("fence_after_s", self.fence_after_s, "2 sweep_s", 2 * self.sweep_s),
        )
        broken = [
            f"does not hold: {name} ({value:g}) >= {rule} ({least:g})"
            for name, value, rule, least in checks
            if value < least
        ]
        patience_s = self.hold_off_s + self.fence_after_s
        outage_s = self.reconnect_cap_s + self.service_start_s + 3 * self.heartbeat_interval_s
        if patience_s <= outage_s:
            broken.append(
                f"does not hold: hold_off_s + fence_after_s ({patience_s:g}) > reconnect_cap_s"
                f" + service_start_s + 3 heartbeat_interval_s ({outage_s:g})"
            )
        return broken

    def secret_key_path(self) -> Path:
        """Where the key is: as set, or in the credentials that systemd gives.

        Raises SettingsRefused when neither is there.
        """
        if self.secret_key_file is not None:
            return self.secret_key_file
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        if not credentials:
            raise SettingsRefused(
                f"secret_key_file is not set, and no credential {KEY_NAME} is given"
            )
        return Path(credentials) / KEY_NAME

    @property
    def suspicion(self) -> suspicion.Policy:
        return suspicion.Policy(
            suspect_after_s=self.suspect_after_s,
            fence_after_s=self.fence_after_s,
            # Nodes beat at their own moments, so those that lose one broker are last heard within
            # one interval of each other; half an interval more for jitter.
            together_s=1.5 * self.heartbeat_interval_s,
            wait_for_isolated=self.on_isolated is OnIsolated.WAIT,
        )

    @property
    def gate(self) -> gate.Policy:
        return gate.Policy(
            hold_off_s=self.hold_off_s,
            blast_radius=self.blast_radius,
            fence_interval_s=self.fence_interval_s,
            fence_parallel=self.fence_parallel,
            on_isolated=self.on_isolated,
        )

    @property
    def fencing(self) -> fencing.Policy:
        return fencing.Policy(
            try_s=self.power_try_s,
            tries=self.power_tries,
            read_gap_s=self.power_read_gap_s,
            poll_s=min(1.0, self.power_try_s / 4),
            resume_s=self.resume_after_s,
            retry_blocked_s=self.retry_blocked_s,
        )
