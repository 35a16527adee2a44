"""Power over Redfish, by the sushy library."""

from __future__ import annotations

from typing import ClassVar

from evac_monitor.adapters.power_process import ProcessPower


class RedfishPower(ProcessPower):
    CHILD: ClassVar[str] = "evac_monitor.adapters.redfish_child"
