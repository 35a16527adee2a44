"""A domain of libvirt that a person pauses beside evac."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evac_compute.adapters.libvirt_driver.domain_xml import dashed

libvirt: Any = pytest.importorskip("libvirt", reason="libvirt-python is not installed")


async def pause(uri: str, instance_id: str) -> None:
    def suspend() -> None:
        connection = libvirt.open(uri)
        connection.lookupByUUIDString(dashed(instance_id)).suspend()
        connection.close()

    await asyncio.to_thread(suspend)
