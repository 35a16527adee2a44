"""The IPMI driver against a live BMC on loopback; and what it must never show."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from evac_common.model.states import PowerKind
from evac_monitor.adapters.power_ipmi import IpmiPower
from tests.contract.power.contract import PowerContract
from tests.contract.power.live import LiveBench, NothingShown

LIMIT_S = 6.0


class IpmiBench(LiveBench):
    kind = PowerKind.IPMI
    socket_type = socket.SOCK_DGRAM


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[IpmiBench]:
    with IpmiBench(tmp_path, IpmiPower(call_limit_s=LIMIT_S), limit_s=LIMIT_S) as made:
        yield made


@pytest.mark.slow
class TestIpmi(PowerContract, NothingShown):
    child: ClassVar[str] = "ipmi_child"
