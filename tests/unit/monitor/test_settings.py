"""Settings that cannot work together are refused, naming the inequality."""

from __future__ import annotations

from typing import Any

import pytest

from evac_common.errors import SettingsRefused
from evac_monitor.settings import Settings


@pytest.mark.parametrize("profile", ["default", "fast"])
def test_both_profiles_hold_every_inequality(profile: str) -> None:
    assert Settings.load(profile=profile).broken_inequalities() == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"suspect_after_s": 6.9}, "suspect_after_s (6.9) >= 3 heartbeat_interval_s + jitter (7)"),
        ({"fence_after_s": 15}, "fence_after_s (15) >= 2 suspect_after_s (16)"),
        ({"hold_off_s": 5}, "hold_off_s + fence_after_s (25) > reconnect_cap_s"),
        ({"power_try_s": 1}, "power_try_s (1) >= 2 power_read_gap_s (2)"),
        ({"resume_after_s": 12}, "resume_after_s (12) >= 1.5 power_try_s (15)"),
        ({"tick_s": 3}, "heartbeat_interval_s (2) >= tick_s (3)"),
        ({"power_read_gap_s": 0.5}, "power_read_gap_s"),
    ],
)
def test_a_broken_inequality_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsRefused) as refused:
        Settings.load(**values)

    assert words in str(refused.value)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(SettingsRefused, match="fence_afterr_s"):
        Settings.load(fence_afterr_s=20)
