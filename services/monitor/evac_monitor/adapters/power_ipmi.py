"""Power over IPMI 2.0, by the pyghmi library.

Why not the `fence_ipmilan` program: it hands the password to ipmitool as the argument `-P`, which
every user of the machine can read while it runs (fence-agents 4.12.1, `create_command`; a password
script changes nothing, its output takes the same way).
"""

from __future__ import annotations

from typing import ClassVar

from evac_monitor.adapters.power_process import ProcessPower


class IpmiPower(ProcessPower):
    CHILD: ClassVar[str] = "evac_monitor.adapters.ipmi_child"
