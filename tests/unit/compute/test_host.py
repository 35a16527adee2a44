"""What the daemon reads about itself, and what it refuses to start with."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac_common.errors import SettingsRefused
from evac_compute.adapters.host import read_identity, read_node_file
from evac_compute.settings import Settings

NODE_ID = "0123456789abcdef0123456789abcdef"
GOOD = {
    "node_id": NODE_ID,
    "name": "n1",
    "bus_url": "amqp://broker.example:5671/evac",
    "user": f"compute-{NODE_ID}",
    "secret": "p@ss/word",
}


def _toml(path: Path, values: dict[str, str]) -> Path:
    path.write_text("".join(f'{key} = "{value}"\n' for key, value in values.items()))
    return path


def test_the_account_becomes_part_of_the_url(tmp_path: Path) -> None:
    node = read_node_file(_toml(tmp_path / "node.toml", GOOD))
    account = f"compute-{NODE_ID}:p%40ss%2Fword"
    assert node.account_url() == f"amqp://{account}@broker.example:5671/evac"
    assert "p@ss" not in repr(node)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"node_id": "n1"}, "node_id"),
        ({"user": "compute-somebody"}, "user"),
        ({"bus_url": "http://broker"}, "bus_url"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_node_file_is_refused_by_field(
    tmp_path: Path, change: dict[str, str], named: str
) -> None:
    path = _toml(tmp_path / "node.toml", {**GOOD, **change})
    with pytest.raises(SettingsRefused, match=named) as raised:
        read_node_file(path)
    assert "p@ss" not in str(raised.value)


def test_a_missing_or_broken_node_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match=r"nothing\.toml"):
        read_node_file(tmp_path / "nothing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("node_id = ")
    with pytest.raises(SettingsRefused, match=r"broken\.toml"):
        read_node_file(broken)


def _machine(folder: Path, *, boot_id: str = "boot-1\n", uuid: str = "") -> Settings:
    (folder / "boot_id").write_text(boot_id)
    uuid = uuid or "7E5F4D3C-0000-4000-8000-000000000001\n"
    (folder / "product_uuid").write_text(uuid)
    return Settings(boot_id_file=folder / "boot_id", dmi_dir=folder)


def test_the_machine_says_who_it_is(tmp_path: Path) -> None:
    node = read_node_file(_toml(tmp_path / "node.toml", GOOD))
    identity = read_identity(_machine(tmp_path), node)
    assert (identity.node_id, identity.name) == (NODE_ID, "n1")
    assert identity.boot_id == "boot-1"
    assert identity.dmi_uuid == "7e5f4d3c-0000-4000-8000-000000000001"


@pytest.mark.parametrize("machine", [{"boot_id": "\n"}, {"uuid": "Not Specified\n"}])
def test_a_machine_without_identity_is_refused(tmp_path: Path, machine: dict[str, str]) -> None:
    node = read_node_file(_toml(tmp_path / "node.toml", GOOD))
    with pytest.raises(SettingsRefused):
        read_identity(_machine(tmp_path, **machine), node)


def test_too_short_a_silence_is_refused_naming_both_values() -> None:
    with pytest.raises(SettingsRefused, match="reregister_after_s"):
        Settings.load(reregister_after_s=3, heartbeat_interval_s=2)


def test_the_fast_profile_fits_together() -> None:
    settings = Settings.load(profile="fast")
    assert settings.heartbeat_interval_s == 0.5
    assert settings.hypervisor == "qemu:///system"
    assert settings.simulated_socket is None
    assert Settings(hypervisor="simulated:/run/x").simulated_socket == Path("/run/x")
