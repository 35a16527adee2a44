"""Which BMC a node has, how to reach it, and that it is really the node's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evac_common.model.states import PowerKind
from evac_monitor.core import fencing
from evac_monitor.ports import NodeRow, PowerDriver, PowerError, PowerTarget, Secrets


class Bmcs:
    """The drivers of this process, by the kind of BMC."""

    def __init__(self, power: Mapping[PowerKind, PowerDriver], secrets: Secrets) -> None:
        self._power = power
        self._secrets = secrets

    def no_method(self, node: NodeRow) -> str:
        """Why there is nothing to ask; empty: there is a BMC, and a driver for it."""
        if node.power is None:
            return "it has no BMC: only an operator can prove it dead"
        kind = node.power.get("kind")
        if kind not in [known.value for known in self._power]:
            return f"there is no driver for its BMC ({kind})"
        return ""

    def reach(self, node: NodeRow) -> tuple[PowerTarget, PowerDriver]:
        """Raises EvacError when the password cannot be decrypted."""
        power: dict[str, Any] = node.power or {}
        kind = PowerKind(power["kind"])
        target = PowerTarget(
            node_id=node.node_id,
            kind=kind,
            address=str(power["address"]),
            port=int(power["port"]),
            username=str(power.get("username", "")),
            password=self._secrets.decrypt(node.power_secret) if node.power_secret else "",
            system=power.get("system") or "",
            tls_sha256=power.get("tls_sha256") or "",
        )
        return target, self._power[kind]


async def identify(driver: PowerDriver, target: PowerTarget, node: NodeRow) -> None:
    """A BMC of another machine would prove the wrong one dead. Raises PowerError if it is one."""
    told = await driver.identity(target)
    enrolled = node.dmi_uuid
    if told and enrolled and not fencing.same_system(told, enrolled):
        raise PowerError(
            f"the BMC at {target.address} belongs to system {told}, not {enrolled}",
            hopeless=True,
        )
